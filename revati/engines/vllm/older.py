"""vLLM versions that were made for an older PyTorch: what they ask of PyTorch and of their host."""

from __future__ import annotations

import contextlib
from types import ModuleType
from typing import Any

from revati.cuda import ledger

_HOST_BYTES = 2 << 40  # what servers of eight GPUs come with
_UNTIL = "support of vLLM before 0.12 ends"


def patch_decorators(module: ModuleType) -> None:
    """`vllm.compilation.decorators`: Dynamo's `inline_call` has arguments that its wrapper does not pass on.

    It notes the files that were traced, as part of the key of a compile cache, which is off in a run.
    """
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


def patch_cache_config(module: ModuleType) -> None:
    """`vllm.config.cache`: swap space, which engine V1 never takes, is compared with the host's memory."""
    if not hasattr(module, "get_cpu_memory"):
        return  # 0.19
    ledger.replace(
        module,
        "get_cpu_memory",
        lambda: _HOST_BYTES,
        why="how much memory this machine has says nothing of a machine with GPUs",
        until=_UNTIL,
    )


PATCHES = {"vllm.compilation.decorators": patch_decorators, "vllm.config.cache": patch_cache_config}
