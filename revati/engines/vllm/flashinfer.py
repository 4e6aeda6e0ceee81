"""FlashInfer kernels that vLLM calls without asking, and that would be compiled with nvcc at the first call.

Each records one launch under the name of the function that it stands for.
"""

from __future__ import annotations

from functools import partial
from types import ModuleType
from typing import Any

from revati.cuda import ledger, refusal

_WHY = "compiles with nvcc at the first call"
_UNTIL = "FlashInfer's kernels come precompiled with its wheel"


def launch(name: str, on: Any, written: Any, **arguments: Any) -> None:
    """Record one kernel on the device of `on`; `written` has no values after it."""
    from revati import _C

    _C.launch(name, list(arguments), *arguments.values(), device=on.get_device())
    _C.mark_phantom(written)


def patch_concat(module: ModuleType) -> None:
    """`flashinfer.concat_ops`: keys of DeepSeek's prefill attention from their two parts."""

    def concat_mla_k(k: Any, k_nope: Any, k_rope: Any) -> None:
        launch("flashinfer::concat_mla_k", k, k, k=k, k_nope=k_nope, k_rope=k_rope)

    ledger.replace(module, "concat_mla_k", concat_mla_k, why=_WHY, until=_UNTIL)


def patch_decode(module: ModuleType) -> None:
    """`flashinfer.decode`: attention of Blackwell's vLLM over pages, one or few new tokens a sequence."""

    _replace_paged(module, "trtllm_batch_decode_with_kv_cache")
    ledger.replace(module, "trtllm_batch_decode_with_kv_cache_mla", _latent, why=_WHY, until=_UNTIL)


def _latent(
    *, query: Any, kv_cache: Any, kv_lora_rank: int, seq_lens: Any, out: Any = None, **kwargs: Any
) -> Any:
    """DeepSeek's: queries of width 576 [sequences, tokens, heads, width] against one compressed cache."""
    import torch

    name = "trtllm_batch_decode_with_kv_cache_mla"
    if kwargs.get("return_lse") or kwargs.get("sparse_mla_top_k"):
        raise _no_rule(name, "return_lse and sparse caches have")
    if out is None:
        out = torch.empty((*query.shape[:-1], kv_lora_rank), dtype=torch.bfloat16, device=query.device)
    launch(f"flashinfer::{name}", query, out, q=query, k_cache=kv_cache, seq_lens=seq_lens)
    return out


def patch_prefill(module: ModuleType) -> None:
    """`flashinfer.prefill`: the same for prompts."""

    _replace_paged(module, "trtllm_batch_context_with_kv_cache")


def _replace_paged(module: ModuleType, name: str) -> None:
    ledger.replace(module, name, partial(_paged, name), why=_WHY, until=_UNTIL)


def _paged(
    name: str,
    query: Any,
    kv_cache: Any,
    workspace_buffer: Any,
    block_tables: Any,
    seq_lens: Any,
    *args: Any,
    window_left: int = -1,
    cum_seq_lens_q: Any = None,
    out: Any = None,
    return_lse: bool = False,
    **kwargs: Any,
) -> Any:
    import torch

    if args or return_lse or (out is not None and not isinstance(out, torch.Tensor)):
        raise _no_rule(name, "positional options, return_lse and FP4 outputs have")
    keys = kv_cache[0] if isinstance(kv_cache, tuple) else kv_cache[:, 0]
    out = torch.empty_like(query) if out is None else out
    launch(
        f"flashinfer::{name}",
        query,
        out,
        query=query,
        k_cache=keys,
        seq_lens=seq_lens,
        cum_seq_lens_q=cum_seq_lens_q,
        window_left=window_left,
    )
    return out


_EXPERTS = (
    "trtllm_bf16_moe",
    "trtllm_fp8_per_tensor_scale_moe",
    "trtllm_fp8_block_scale_moe",
    "trtllm_fp4_block_scale_moe",
)


def patch_experts(module: ModuleType) -> None:
    """`flashinfer.fused_moe`: Blackwell's experts, from router logits to summed outputs in one call."""
    for name in _EXPERTS:
        if hasattr(module, name):
            ledger.replace(module, name, _experts(name), why=_WHY, until=_UNTIL)


def _experts(name: str) -> Any:
    def run(
        *args: Any,
        hidden_states: Any,
        num_experts: int,
        top_k: int,
        intermediate_size: int,
        local_num_experts: int,
        do_finalize: bool = True,
        output: Any = None,
        **kwargs: Any,
    ) -> Any:
        import torch

        if args or not do_finalize:
            raise _no_rule(name, "positional arguments and outputs that are not summed have")
        packed = hidden_states.dtype == torch.uint8
        hidden = hidden_states.shape[-1] * (2 if packed else 1)
        if output is None:
            shape = (hidden_states.shape[0], hidden)
            output = torch.empty(shape, dtype=torch.bfloat16, device=hidden_states.device)
        launch(
            f"flashinfer::{name}",
            hidden_states,
            output,
            hidden_states=hidden_states,
            hidden_size=hidden,
            intermediate_size=intermediate_size,
            top_k=top_k,
            num_experts=num_experts,
            local_num_experts=local_num_experts,
        )
        return output

    return run


def patch_products(module: ModuleType) -> None:
    """`flashinfer`: products of 8-bit and 4-bit numbers that vLLM's layers call on Blackwell."""

    def bmm_fp8(
        A: Any, B: Any, A_scale: Any, B_scale: Any, dtype: Any, out: Any = None, backend: str = "cublas"
    ) -> Any:
        return _product("bmm_fp8", A, B, (*A.shape[:-1], B.shape[-1]), dtype, out)

    def mm_fp4(
        a: Any,
        b: Any,
        a_descale: Any,
        b_descale: Any,
        alpha: Any = None,
        out_dtype: Any = None,
        out: Any = None,
        **kwargs: Any,
    ) -> Any:
        return _product("mm_fp4", a, b, (a.shape[0], b.shape[1]), out_dtype, out)

    ledger.replace(module, "bmm_fp8", bmm_fp8, why=_WHY, until=_UNTIL)
    ledger.replace(module, "mm_fp4", mm_fp4, why=_WHY, until=_UNTIL)


def _product(name: str, a: Any, b: Any, shape: tuple[int, ...], dtype: Any, out: Any) -> Any:
    import torch

    if out is None:
        out = torch.empty(shape, dtype=dtype or torch.bfloat16, device=a.device)
    launch(f"flashinfer::{name}", a, out, a=a, b=b)
    return out


def _no_rule(name: str, what: str) -> RuntimeError:
    text = f"flashinfer {name}: {what} no rule on a virtual GPU"
    refusal.note(text)
    return RuntimeError(f"revati: {text}")


def patch_cubins(module: ModuleType) -> None:
    """`vllm.utils.flashinfer`: asks over the network whether TensorRT-LLM's attention kernels can be had."""
    ledger.replace(
        module,
        "has_nvidia_artifactory",
        lambda: True,
        why="vLLM's images hold the kernels (flashinfer-cubin); the emulation needs none of them",
        until="never: it stands for the image",
    )


_NO_RULE = (
    "FlashInfer's kernel {}, which vLLM has chosen, has no rule on a virtual GPU; choose another with "
    "--attention-backend TRITON_ATTN, --moe-backend triton or --linear-backend"
)


def patch_jit(module: ModuleType) -> None:
    """`flashinfer.jit.core`: kernels without a rule are refused, not compiled for minutes for no use."""

    def build(self: Any, *args: Any, **kwargs: Any) -> Any:
        text = _NO_RULE.format(self.name[:40])
        refusal.note(text)
        raise RuntimeError(f"revati: {text}")

    spec = getattr(module, "JitSpecNvcc", None) or module.JitSpec  # FlashInfer before 0.6
    ledger.replace(spec, "build", build, why="its kernels run on real GPUs only", until="never")


def patch_cubin_loader(module: ModuleType) -> None:
    """`flashinfer.jit.cubin_loader`: the same for kernels that would be downloaded."""

    def download_file(source: str, *args: Any, **kwargs: Any) -> Any:
        text = _NO_RULE.format("/".join(str(source).split("/")[-3:-1]))
        refusal.note(text)
        raise RuntimeError(f"revati: {text}")

    ledger.replace(
        module, "download_file", download_file, why="its kernels run on real GPUs only", until="never"
    )


PATCHES = {
    "flashinfer": patch_products,
    "flashinfer.concat_ops": patch_concat,
    "flashinfer.decode": patch_decode,
    "flashinfer.prefill": patch_prefill,
    "flashinfer.fused_moe": patch_experts,
    "flashinfer.jit.core": patch_jit,
    "flashinfer.jit.cubin_loader": patch_cubin_loader,
    "vllm.utils.flashinfer": patch_cubins,
}
