"""FlashInfer kernels that vLLM calls without asking, and that would be compiled with nvcc at the first call.

Each records one launch under the name of the function that it stands for.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

from revati.cuda import ledger, refusal

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


_ATTENTION = ("batch_prefill", "batch_decode", "single_prefill", "single_decode", "fmha", "trtllm_fmha")


def patch_jit(module: ModuleType) -> None:
    """`flashinfer.jit.core`: attention kernels are refused, not compiled for minutes and then of no use."""
    real = module.JitSpecNvcc.build

    def build(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self.name.startswith(_ATTENTION):
            text = (
                "FlashInfer's attention, which vLLM has chosen, has no rule on a virtual GPU; "
                "run with --attention-backend TRITON_ATTN"
            )
            refusal.note(text)
            raise RuntimeError(f"revati: {text} (kernel {self.name[:40]})")
        return real(self, *args, **kwargs)

    ledger.replace(
        module.JitSpecNvcc, "build", build, why="its attention kernels have no rule", until="they have one"
    )


PATCHES = {"flashinfer.concat_ops": patch_concat, "flashinfer.jit.core": patch_jit}
