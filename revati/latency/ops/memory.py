"""Ops whose time is the bytes they move: norms, activations, rope, casts, gathers, reductions, sampling.

Three tables: custom ops with the arguments they read and write, aten ops by family, and names that
launch nothing. What no table names is priced by all tensors it was given, caches and weights that it
only indexes excepted.
"""

from __future__ import annotations

from revati.latency.record import ArgView, TensorArg, nbytes, numel
from revati.latency.work import NOTHING, Work

LAUNCHES_NOTHING = frozenset(
    "aten::" + name
    for name in (
        "view", "_unsafe_view", "reshape", "_reshape_alias", "as_strided", "as_strided_", "alias",
        "detach", "detach_",
        "t", "t_", "transpose", "transpose_", "permute", "expand", "expand_as", "select", "slice",
        "unsqueeze",
        "unsqueeze_", "squeeze", "squeeze_", "split", "split_with_sizes", "chunk", "unbind", "narrow",
        "unfold",
        "diagonal", "view_as", "view_as_real", "view_as_complex", "movedim", "swapaxes", "flatten",
        "unflatten",
        "empty", "empty_strided", "empty_like", "new_empty", "new_empty_strided", "resize_", "set_",
        "resize_as_",
        "lift", "lift_fresh", "record_stream", "is_pinned", "_pin_memory", "size", "stride", "sym_size",
        "is_same_size",
        "_local_scalar_dense", "item", "requires_grad_", "contiguous",
        "_has_compatible_shallow_copy_type", "real",
        "_version", "data", "is_contiguous", "numel", "storage_offset", "conj", "_conj", "resolve_conj",
        "resolve_neg",
        "broadcast_to", "atleast_1d", "mT", "numpy_T", "_nested_view_from_buffer", "is_nonzero",
        "prim.device",
    )
)  # fmt: skip

HOST_ONLY = frozenset(
    (
        "_C::weak_ref_tensor", "_C::get_cuda_view_from_cpu_tensor", "_C_cuda_utils::get_device_attribute",
        "_C_cuda_utils::get_max_shared_memory_per_block_device_attribute",
        "_C::cutlass_scaled_mm_supports_fp8",
        "_C::cutlass_scaled_mm_supports_block_fp8", "_C::cutlass_scaled_mm_supports_fp4",
        "_C::cutlass_group_gemm_supported", "_C_custom_ar::init_custom_ar", "_C_custom_ar::dispose",
        "_C_custom_ar::meta_size", "_C_custom_ar::register_buffer", "_C_custom_ar::get_graph_buffer_ipc_meta",
        "_C_custom_ar::register_graph_buffers", "_C_custom_ar::allocate_shared_buffer_and_handle",
        "_C_custom_ar::open_mem_handle", "_C_custom_ar::free_shared_buffer",
        "_C::machete_supported_schedules",
        "_moe_C::moe_permute_unpermute_supported", "_moe_C::moe_permute_sort_workspace_size",
        "_C::sm100_cutlass_mla_get_workspace_size",
    )
)  # fmt: skip

_CUSTOM: dict[str, tuple[str, tuple[str, ...], tuple[str, ...]]] = {
    "concat_mla_k": ("elementwise", ("k_nope", "k_rope"), ("k",)),
    "rms_norm": ("norm", ("input", "weight"), ("result", "out")),
    "fused_add_rms_norm": ("norm", ("input", "residual", "weight"), ("input", "residual")),
    "rms_norm_static_fp8_quant": ("norm", ("input", "weight"), ("result", "out")),
    "fused_add_rms_norm_static_fp8_quant": (
        "norm",
        ("input", "residual", "weight"),
        ("result", "residual", "out"),
    ),
    "rms_norm_dynamic_per_token_quant": (
        "norm",
        ("input", "residual", "weight"),
        ("result", "scale", "residual"),
    ),
    "rms_norm_per_block_quant": ("norm", ("input", "residual", "weight"), ("result", "scale", "residual")),
    "fused_qk_norm_rope": ("rope", ("qkv",), ("qkv",)),
    "silu_and_mul": ("activation", ("input",), ("result", "out")),
    "mul_and_silu": ("activation", ("input",), ("result", "out")),
    "gelu_and_mul": ("activation", ("input",), ("result", "out")),
    "gelu_tanh_and_mul": ("activation", ("input",), ("result", "out")),
    "silu_and_mul_quant": ("activation", ("input",), ("result", "out")),
    "silu_and_mul_nvfp4_quant": ("activation", ("input",), ("result", "result_block_scale")),
    "silu_and_mul_per_block_quant": ("activation", ("input",), ("out", "scales")),
    "static_scaled_fp8_quant": ("quantize", ("input",), ("result", "out")),
    "dynamic_scaled_fp8_quant": ("quantize", ("input", "input"), ("result", "out")),
    "dynamic_per_token_scaled_fp8_quant": ("quantize", ("input",), ("result", "scale", "out")),
    "per_token_group_fp8_quant": ("quantize", ("input",), ("output_q", "output_s")),
    "per_token_group_fp8_quant_packed": (
        "quantize",
        ("input",),
        ("output_q", "output_s", "output_s_packed"),
    ),
    "gather_and_maybe_dequant_cache": ("kv_write", ("dst",), ("dst",)),
    "static_scaled_int8_quant": ("quantize", ("input",), ("result", "out")),
    "dynamic_scaled_int8_quant": ("quantize", ("input",), ("result", "scale", "out")),
    "scaled_fp4_quant": ("quantize", ("input",), ("output", "output_scale")),
    "concat_mla_q": ("elementwise", ("ql_nope", "q_pe"), ("q_out",)),
    "apply_repetition_penalties_": ("sampling", ("logits", "prompt_mask", "output_mask"), ("logits",)),
    "top_k_per_row_decode": ("sampling", ("logits",), ("indices",)),
    "awq_dequantize": ("elementwise", ("_kernel",), ()),
}

_PASSES: dict[str, tuple[str, float]] = {
    "sort": ("sampling", 8.0), "argsort": ("sampling", 8.0), "topk": ("sampling", 2.0),
    "argmax": ("reduction", 1.0),
    "argmin": ("reduction", 1.0), "max": ("reduction", 1.0), "min": ("reduction", 1.0),
    "sum": ("reduction", 1.0),
    "mean": ("reduction", 1.0), "amax": ("reduction", 1.0), "any": ("reduction", 1.0),
    "all": ("reduction", 1.0),
    "_softmax": ("reduction", 1.5), "softmax": ("reduction", 1.5), "_log_softmax": ("reduction", 1.5),
    "log_softmax": ("reduction", 1.5), "logsumexp": ("reduction", 2.0), "cumsum": ("reduction", 2.0),
    "multinomial": ("sampling", 4.0), "exponential_": ("elementwise", 1.0), "uniform_": ("elementwise", 1.0),
    "normal_": ("elementwise", 1.0), "kthvalue": ("sampling", 4.0), "unique_consecutive": ("sampling", 6.0),
    "_unique2": ("sampling", 8.0), "nonzero": ("sampling", 4.0), "masked_select": ("sampling", 4.0),
    "searchsorted": ("elementwise", 1.0), "bucketize": ("elementwise", 1.0), "bincount": ("reduction", 2.0),
}  # fmt: skip
"""aten op -> (family, traffic over one read of the inputs and one write of the outputs)."""

_INDEXING = frozenset(
    ("embedding", "index_select", "index", "gather", "take", "take_along_dim", "index_add_")
)
_SCATTER = frozenset(("scatter_", "scatter", "index_put_", "index_put", "index_copy_", "_index_put_impl_",
                      "scatter_add_", "masked_fill_", "index_fill_", "masked_scatter_"))  # fmt: skip
_FILL = frozenset(("zero_", "fill_", "zeros", "ones", "full", "zeros_like", "ones_like", "full_like",
                   "new_zeros",
                   "new_ones", "new_full", "arange", "scalar_tensor", "zeros_out", "eye"))  # fmt: skip


def base_name(name: str) -> str:
    """`aten::add.Tensor` -> `add`; `aten::mm.out` -> `mm`."""
    return name.partition("::")[2].partition(".")[0]


def extract_aten(view: ArgView) -> Work:
    """Any aten op that no other room claimed."""
    record = view.record
    op = base_name(record.name)
    written = view.output_bytes()
    if op in _FILL:
        if not written:
            target = view.tensor("self", "out")
            written = nbytes(target) if target is not None else 0.0
        return Work(family="elementwise", write_bytes=written)
    if op in _INDEXING:
        indices = sum(nbytes(t) for n, t in view.tensors() if n in ("indices", "index"))
        family = "embedding" if op in ("embedding", "index_select") else "gather"
        return Work(family=family, read_bytes=written + indices, write_bytes=written)
    if op in _SCATTER:
        moved = sum(
            nbytes(t)
            for n, t in view.tensors()
            if n in ("src", "values", "source", "index", "indices", "mask")
        )
        if op.startswith("masked_fill"):
            moved = max(moved, view.bytes_of("self"))
        return Work(family="gather", read_bytes=moved, write_bytes=moved)
    read = sum(nbytes(t) for n, t in view.tensors() if n not in ("out", "values_out"))
    if op == "copy_":
        source = view.tensor("src")
        target = view.tensor("self")
        read = nbytes(source) if source is not None else read
        written = nbytes(target) if target is not None else written
    elif not written and op.endswith("_"):
        written = view.bytes_of("self")
    family, passes = _PASSES.get(op, ("elementwise", 1.0))
    if family == "sampling" and written == 0:
        written = view.bytes_of("out")
    kernels = 1.0 if passes < 4 else passes
    return Work(family=family, read_bytes=read * passes, write_bytes=written, kernels=kernels)


def _rotary(view: ArgView) -> Work:
    """In place on query and key; one row of the cos/sin cache a token."""
    moved = view.bytes_of("query", "key")
    cache = view.tensor("cos_sin_cache")
    positions = view.tensor("positions")
    rows = numel(positions) if positions is not None else 0
    width = cache.shape[-1] * 2 if cache is not None and cache.shape else 0
    return Work(family="rope", read_bytes=moved + rows * (width + 8), write_bytes=moved)


def _cache_write(view: ArgView) -> Work:
    """Keys and values to their slots: `slot_mapping` says how many tokens are real."""
    key, value = view.tensor("key", "k", "kv_c", "key_ptr"), view.tensor("value", "v", "k_pe", "value_ptr")
    cache = view.tensor("key_cache", "kv_cache", "k_cache", "key_cache_ptr")
    slots = view.tensor("slot_mapping", "slot_mapping_ptr")
    read = (nbytes(key) if key is not None else 0.0) + (nbytes(value) if value is not None else 0.0)
    rows = key.shape[0] if key is not None and key.shape else 0
    if slots is not None and slots.shape and rows > slots.shape[0]:
        read *= slots.shape[0] / rows
    narrower = 0.5 if cache is not None and cache.dtype.removeprefix("torch.") in ("uint8", "int8") else 1.0
    if cache is not None and cache.dtype.removeprefix("torch.").startswith("float8"):
        narrower = 0.5
    return Work(family="kv_write", read_bytes=read + 8.0 * rows, write_bytes=read * narrower)


def _vocab_embedding(view: ArgView) -> Work:
    written = view.bytes_of("out")
    return Work(family="embedding", read_bytes=written + view.bytes_of("input_ids"), write_bytes=written)


_SPECIAL = {
    "rotary_embedding": _rotary,
    "batched_rotary_embedding": _rotary,
    "reshape_and_cache": _cache_write,
    "reshape_and_cache_flash": _cache_write,
    "concat_and_cache_mla": _cache_write,
    "reshape_and_cache_kernel_flash": _cache_write,
    "vocab_parallel_embedding": _vocab_embedding,
}


def extract_custom(view: ArgView) -> Work | None:
    """Ops of `_C`, `_C_cache_ops`, `_moe_C`, `vllm`, `sgl_kernel` and the like, by their base name."""
    op = base_name(view.record.name)
    special = _SPECIAL.get(op)
    if special is not None:
        return special(view)
    entry = _CUSTOM.get(op)
    if entry is None:
        return None
    family, reads, writes = entry
    return Work(
        family=family,
        read_bytes=sum(view.bytes_of(name) for name in reads),
        write_bytes=sum(view.bytes_of(name) for name in writes) + view.output_bytes(),
    )


def _indexed_only(name: str, tensor: TensorArg, largest_other: float) -> bool:
    """Caches, tables and pools that a kernel indexes but does not sweep."""
    return nbytes(tensor) > 64 * max(largest_other, 4096.0) or "cache" in name or "table" in name


def extract_unknown(view: ArgView, family: str) -> Work:
    """Bytes of what the op was given, once; tensors that can only be indexed into count nothing."""
    tensors = [(name, t) for name, t in view.tensors() if numel(t) > 0]
    if not tensors and not view.record.outputs:
        return NOTHING if family == "other" else Work(family=family)
    sizes = sorted((nbytes(t) for n, t in tensors if "cache" not in n), reverse=True)
    typical = sizes[len(sizes) // 2] if sizes else 0.0
    read = sum(nbytes(t) for n, t in tensors if not _indexed_only(n, t, typical))
    return Work(family=family, read_bytes=read, write_bytes=view.output_bytes())
