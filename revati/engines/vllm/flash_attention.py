"""FlashAttention 4, which vLLM's wheel holds as source: compiled for the GPU at the first call."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from revati.cuda import ledger

NAME = "flash_attention_4::fwd"


def patch(module: ModuleType) -> None:
    """`vllm.vllm_flash_attn.cute.interface`: a call is one launch; what is compiled in advance is not."""

    def forward(
        q: Any,
        k: Any,
        v: Any,
        qv: Any = None,
        cu_seqlens_q: Any = None,
        cu_seqlens_k: Any = None,
        *,
        seqused_k: Any = None,
        max_seqlen_q: Any = None,
        max_seqlen_k: Any = None,
        causal: bool = False,
        window_size_left: Any = None,
        return_lse: bool = False,
        out: Any = None,
        lse: Any = None,
        compile_only: bool = False,
        **kwargs: Any,
    ) -> tuple[Any, Any, None, None]:
        import torch

        from revati import _C

        if out is None:
            out = torch.empty((*q.shape[:-1], v.shape[-1]), dtype=q.dtype, device=q.device)
        if lse is None and return_lse:
            shape = (q.shape[-2], q.shape[0]) if q.dim() == 3 else (q.shape[0], q.shape[2], q.shape[1])
            lse = torch.empty(shape, dtype=torch.float32, device=q.device)
        if compile_only:
            return out, lse, None, None
        window = -1 if window_size_left is None else window_size_left
        arguments = {
            "q": q,
            "k": k,
            "v": v,
            "q_v": qv,
            "cu_seqlens_q": cu_seqlens_q,
            "cu_seqlens_k": cu_seqlens_k,
            "seqused_k": seqused_k,
            "max_seqlen_q": max_seqlen_q,
            "max_seqlen_k": max_seqlen_k,
            "window_size_left": window,
            "is_causal": causal,
        }
        _C.launch(NAME, list(arguments), *arguments.values(), device=q.get_device())
        for written in (out, lse):
            if written is not None:
                _C.mark_phantom(written)
        return out, lse, None, None

    ledger.replace(
        module,
        "_flash_attn_fwd",
        forward,
        why="compiles for the GPU at the first call",
        until="it comes precompiled with vLLM's wheel",
    )


PATCHES = {"vllm.vllm_flash_attn.cute.interface": patch}
