"""Changes to vLLM itself, all through the ledger. The fewer, the better."""

from __future__ import annotations

import gc
import os

_applied = False


def apply() -> None:
    """Apply what has to be changed in vLLM; idempotent, called in every process that builds a vLLM config."""
    global _applied
    if _applied:
        return
    _applied = True
    # A dozen full collections of an engine's start need not look at what its parent imported.
    os.register_at_fork(after_in_child=gc.freeze)
    from revati import _C
    from revati.cuda import ledger
    from revati.engines.vllm.versions import first_of

    ledger.replace(
        first_of("vllm.utils.system_utils", "vllm.utils"),
        "cuda_is_initialized",
        _C.device_in_use,
        why="libraries that ask for properties while they are imported leave nothing on a virtual device: "
        "vLLM may fork, and its processes need not import everything again",
        until="never",
    )
