"""vLLM versions that were made for an older PyTorch, beside the one that Revati is built for."""

from __future__ import annotations

import contextlib
import inspect
from types import ModuleType
from typing import Any

from revati.cuda import ledger

_UNTIL = "support of vLLM before 0.12 ends"


def patch_decorators(module: ModuleType) -> None:
    """`vllm.compilation.decorators`: Dynamo's `inline_call` has arguments that its wrapper does not pass on.

    It notes the files that were traced, as part of the key of a compile cache, which is off in a run.
    """
    if "patched_inline_call(parent, func, args, kwargs)" not in inspect.getsource(module):
        return
    ledger.replace(
        module,
        "patch",
        _Patch(module.patch),
        why="Dynamo's functions have arguments that vLLM's wrappers do not know",
        until=_UNTIL,
    )


class _Patch:
    """`unittest.mock.patch`, which leaves Dynamo's `inline_call` as it is."""

    def __init__(self, usual: Any) -> None:
        self._usual = usual

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._usual(*args, **kwargs)

    def object(self, target: Any, name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "inline_call":
            return contextlib.nullcontext()
        return self._usual.object(target, name, *args, **kwargs)


PATCHES = {"vllm.compilation.decorators": patch_decorators}
