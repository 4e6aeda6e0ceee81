"""Attention calls: sequence lengths from live arguments, heads and dims from shapes, work from both."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable

from revati.latency.record import ArgView, TensorArg, dtype_bytes
from revati.latency.work import NOTHING, AttentionShape, Work

LIVE_ARGS: dict[str, tuple[str, ...]] = {
    "_vllm_fa3_C::fwd": ("cu_seqlens_q", "cu_seqlens_k", "seqused_k"),
    "_vllm_fa2_C::varlen_fwd": ("cu_seqlens_q", "cu_seqlens_k", "seqused_k"),
    "_vllm_fa2_C::fwd_kvcache": ("seqlens_k",),
    "sgl_kernel::fwd": ("cu_seqlens_q", "cu_seqlens_k", "seqused_k"),
    "triton::kernel_unified_attention": ("seq_lens_ptr", "query_start_len_ptr"),
    "triton::kernel_unified_attention_2d": ("seq_lens_ptr", "query_start_len_ptr"),
    "triton::kernel_unified_attention_3d": ("seq_lens_ptr", "query_start_len_ptr"),
    "flashinfer::trtllm_batch_decode_with_kv_cache": ("seq_lens", "cum_seq_lens_q"),
    "flashinfer::trtllm_batch_context_with_kv_cache": ("seq_lens", "cum_seq_lens_q"),
    "flashinfer::trtllm_batch_decode_with_kv_cache_mla": ("seq_lens",),
    "flash_attention_4::fwd": ("cu_seqlens_q", "cu_seqlens_k", "seqused_k"),
    "_C::sm100_cutlass_mla_decode": ("seq_lens",),
    "_flashmla_C::fwd_kvcache_mla": ("seqlens_k",),
}

UNPRICED_ARGS: dict[str, tuple[str, ...]] = {
    "_vllm_fa3_C::get_scheduler_metadata": ("max_seqlen_q", "max_seqlen_k"),
    "_vllm_fa2_C::get_scheduler_metadata": ("max_seqlen_q", "max_seqlen_k"),
}


def visible_pairs(query: int, keys: int, window: int, causal: bool) -> float:
    """(query, key) pairs that are computed: `query` new tokens at the end of `keys`."""
    if not causal:
        return float(query) * keys
    first = keys - query + 1  # keys that the first query token sees
    if window <= 0 or keys <= window:
        return query * (first + keys) / 2.0
    if first >= window:
        return float(query) * window
    growing = window - first
    return growing * (first + window - 1) / 2.0 + float(query - growing) * window


def visible_keys(query: int, keys: int, window: int) -> int:
    """Keys that are read at least once."""
    return keys if window <= 0 else min(keys, window + query - 1)


def attention_work(shape: AttentionShape) -> Work:
    """Work of one call: KV read once per sequence, queries read and outputs written once."""
    pairs = 0.0
    keys = 0
    queries = 0
    for query, total in shape.seqs:
        pairs += visible_pairs(query, total, shape.window, shape.causal)
        keys += visible_keys(query, total, shape.window)
        queries += query
    dims = shape.head_dim + shape.head_dim_v
    kv_bytes = 1.0 if shape.kv_kind == "fp8" else 2.0
    return Work(
        family="attention",
        read_bytes=keys * shape.kv_heads * dims * kv_bytes + queries * shape.heads * shape.head_dim * 2.0,
        write_bytes=queries * shape.heads * shape.head_dim_v * 2.0,
        flops=2.0 * pairs * shape.heads * dims,
        flop_kind="bf16",
        shape=shape,
    )


def _ints(tensor: TensorArg | None) -> list[int] | None:
    if tensor is None or tensor.values is None:
        return None
    values: list[int] = tensor.values.reshape(-1).tolist()
    return values


def _lengths(
    starts_q: TensorArg | None,
    starts_k: TensorArg | None,
    used_k: TensorArg | None,
    rows: int,
    max_q: int | None,
    max_k: int | None,
) -> tuple[tuple[tuple[int, int], ...], bool]:
    """((query, keys) of each sequence that has both, whether they are known)."""
    q_at, k_at, k_len = _ints(starts_q), _ints(starts_k), _ints(used_k)
    if k_len is None and k_at is not None and len(k_at) > 1 and k_at[-1] > 0:
        k_len = [b - a for a, b in itertools.pairwise(k_at)]
    if q_at is not None and len(q_at) > 1:
        q_len = [b - a for a, b in itertools.pairwise(q_at)]
    elif k_len is not None:
        q_len = [max(1, rows // max(1, len(k_len)))] * len(k_len)
    else:
        q_len = []
    if q_len and k_len is not None:
        pairs = tuple((q, max(q, k)) for q, k in zip(q_len, k_len, strict=False) if q > 0 and k > 0)
        return pairs, True
    batch = 1
    if used_k is not None and used_k.shape:
        batch = used_k.shape[0]
    elif starts_q is not None and starts_q.shape:
        batch = max(1, starts_q.shape[0] - 1)
    query = max(1, rows // max(1, batch)) if not q_len else 0
    keys = max(max_k or 0, query, 1)
    if q_len:
        return tuple((q, max(q, keys)) for q in q_len if q > 0), False
    return ((query, keys),) * batch, False


def _int_or_none(value: object) -> int | None:
    return int(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _kv_kind(k: TensorArg) -> str:
    return "fp8" if dtype_bytes(k.dtype) <= 1 else "bf16"


def _window(left: object) -> int:
    value = _int_or_none(left)
    return value + 1 if value is not None and value >= 0 else 0


def _flash(view: ArgView) -> Work | None:
    """FlashAttention 2 and 3, variable lengths: q [tokens, heads, dim], k and v paged or packed."""
    q, k, v = view.tensor("q"), view.tensor("k", "kcache"), view.tensor("v", "vcache")
    if q is None or k is None or v is None or len(q.shape) < 3:
        return None
    rows = q.shape[0] if len(q.shape) == 3 else q.shape[0] * q.shape[1]
    seqs, known = _lengths(
        view.tensor("cu_seqlens_q"),
        view.tensor("cu_seqlens_k"),
        view.tensor("seqused_k", "seqlens_k"),
        rows,
        _int_or_none(view.get("max_seqlen_q")),
        _int_or_none(view.get("max_seqlen_k")),
    )
    absorbed = view.tensor("q_v")  # multi-head latent attention: queries against the compressed values
    extra = absorbed.shape[-1] if absorbed is not None else 0
    return attention_work(
        AttentionShape(
            seqs=seqs,
            heads=q.shape[-2],
            kv_heads=k.shape[-2],
            head_dim=q.shape[-1] + extra,
            head_dim_v=0 if extra else v.shape[-1],  # latent attention: keys and values are one cache
            window=_window(view.get("window_size_left", default=-1)),
            causal=bool(view.get("is_causal", default=True)),
            kv_kind=_kv_kind(k),
            known=known,
        )
    )


def _unified(view: ArgView) -> Work | None:
    """vLLM's Triton attention: query [tokens, heads, dim], caches [blocks, block, kv heads, dim]."""
    q, k = view.tensor("query_ptr"), view.tensor("key_cache_ptr")
    if q is None or k is None or len(q.shape) != 3 or len(k.shape) < 3:
        return None
    table = view.tensor("block_tables_ptr")
    longest = table.shape[-1] * k.shape[1] if table is not None and len(table.shape) == 2 else None
    seqs, known = _lengths(
        view.tensor("query_start_len_ptr"), None, view.tensor("seq_lens_ptr"), q.shape[0], None, longest
    )
    window = _int_or_none(view.get("SLIDING_WINDOW", default=0)) or 0
    return attention_work(
        AttentionShape(
            seqs=seqs,
            heads=q.shape[1],
            kv_heads=k.shape[-2],
            head_dim=q.shape[2],
            head_dim_v=q.shape[2],
            window=max(0, window),
            kv_kind=_kv_kind(k),
            known=known,
        )
    )


def _trtllm(view: ArgView) -> Work | None:
    """FlashInfer's TensorRT-LLM kernels: query [tokens, heads, dim], keys [pages, kv heads, page, dim]."""
    q, k = view.tensor("query"), view.tensor("k_cache")
    if q is None or k is None or len(q.shape) != 3 or len(k.shape) != 4:
        return None
    seqs, known = _lengths(
        view.tensor("cum_seq_lens_q"), None, view.tensor("seq_lens"), q.shape[0], None, None
    )
    return attention_work(
        AttentionShape(
            seqs=seqs,
            heads=q.shape[1],
            kv_heads=k.shape[1],
            head_dim=q.shape[2],
            head_dim_v=q.shape[2],
            window=_window(view.get("window_left", default=-1)),
            kv_kind=_kv_kind(k),
            known=known,
        )
    )


def _mla_decode(view: ArgView) -> Work | None:
    """Latent attention, decode: one cache of dim 576 whose first 512 serve as values."""
    q = view.tensor("q_nope", "q")
    cache = view.tensor("kv_c_and_k_pe_cache", "kcache", "k_cache")
    lengths = view.tensor("seq_lens", "seqlens_k")
    if q is None or cache is None or len(q.shape) < 3:
        return None
    rows = q.shape[0] * (q.shape[1] if len(q.shape) == 4 else 1)
    seqs, known = _lengths(None, None, lengths, rows, None, None)
    return attention_work(
        AttentionShape(
            seqs=seqs,
            heads=q.shape[-2],
            kv_heads=1,
            head_dim=cache.shape[-1],
            head_dim_v=0,
            kv_kind=_kv_kind(cache),
            known=known,
        )
    )


def _sdpa(view: ArgView) -> Work | None:
    """aten's fused attention: query, key, value [batch, heads, length, dim]."""
    q, k, v = view.tensor("query"), view.tensor("key"), view.tensor("value")
    if q is None or k is None or v is None or len(q.shape) != 4:
        return None
    return attention_work(
        AttentionShape(
            seqs=((q.shape[2], k.shape[2]),) * q.shape[0],
            heads=q.shape[1],
            kv_heads=k.shape[1],
            head_dim=q.shape[3],
            head_dim_v=v.shape[3],
            causal=bool(view.get("is_causal", default=False)),
        )
    )


def _metadata(view: ArgView) -> Work:
    """FlashAttention 3's tile schedule: one block of threads over the batch."""
    batch = _int_or_none(view.get("batch_size", default=1)) or 1
    return Work(family="attention_meta", read_bytes=4.0 * batch, write_bytes=16.0 * batch)


def _merge(view: ArgView) -> Work:
    written = view.bytes_of("output", "output_lse")
    read = view.bytes_of("prefix_output", "suffix_output", "prefix_lse", "suffix_lse")
    return Work(family="elementwise", read_bytes=read, write_bytes=written)


def _reduce_segments(view: ArgView) -> Work:
    output = view.tensor("output_ptr")
    size = sum(_sizes(output))
    return Work(family="triton", read_bytes=8.0 * size, write_bytes=2.0 * size)


def _sizes(tensor: TensorArg | None) -> Iterable[int]:
    if tensor is None:
        return ()
    count = 1
    for size in tensor.shape:
        count *= size
    return (count,)


EXTRACTORS: dict[str, Callable[[ArgView], Work | None]] = {
    "_vllm_fa3_C::fwd": _flash,
    "_vllm_fa2_C::varlen_fwd": _flash,
    "_vllm_fa2_C::fwd_kvcache": _flash,
    "sgl_kernel::fwd": _flash,
    "_vllm_fa3_C::get_scheduler_metadata": _metadata,
    "_vllm_fa2_C::get_scheduler_metadata": _metadata,
    "triton::kernel_unified_attention": _unified,
    "triton::kernel_unified_attention_2d": _unified,
    "triton::kernel_unified_attention_3d": _unified,
    "triton::reduce_segments": _reduce_segments,
    "flashinfer::trtllm_batch_decode_with_kv_cache": _trtllm,
    "flashinfer::trtllm_batch_context_with_kv_cache": _trtllm,
    "flashinfer::trtllm_batch_decode_with_kv_cache_mla": _mla_decode,
    "flash_attention_4::fwd": _flash,
    "_C::sm100_cutlass_mla_decode": _mla_decode,
    "_flashmla_C::fwd_kvcache_mla": _mla_decode,
    "_C::merge_attn_states": _merge,
    "aten::_scaled_dot_product_flash_attention": _sdpa,
    "aten::_scaled_dot_product_efficient_attention": _sdpa,
    "aten::_scaled_dot_product_cudnn_attention": _sdpa,
    "aten::_scaled_dot_product_attention_math": _sdpa,
    "aten::scaled_dot_product_attention": _sdpa,
    "aten::_flash_attention_forward": _sdpa,
}

__all__ = [
    "EXTRACTORS",
    "LIVE_ARGS",
    "NOTHING",
    "UNPRICED_ARGS",
    "attention_work",
    "visible_keys",
    "visible_pairs",
]
