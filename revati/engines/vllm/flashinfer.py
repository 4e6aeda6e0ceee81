"""FlashInfer kernels that vLLM calls without asking, and that would be compiled with nvcc at the first call.

Each records one launch under the name of the function that it stands for.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

from revati.cuda import ledger

_WHY = "compiles with nvcc at the first call"
_UNTIL = "FlashInfer's kernels come precompiled with its wheel"


def patch_concat(module: ModuleType) -> None:
    """`flashinfer.concat_ops`: keys of DeepSeek's prefill attention from their two parts."""

    def concat_mla_k(k: Any, k_nope: Any, k_rope: Any) -> None:
        from revati import _C

        names = ["k", "k_nope", "k_rope"]
        _C.launch("flashinfer::concat_mla_k", names, k, k_nope, k_rope, device=k.get_device())
        _C.mark_phantom(k)

    ledger.replace(module, "concat_mla_k", concat_mla_k, why=_WHY, until=_UNTIL)


PATCHES = {"flashinfer.concat_ops": patch_concat}
