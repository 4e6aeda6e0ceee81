"""Host twins of vLLM's Triton kernels whose results steer the engine (model runner V2, vllm/v1/worker/gpu).

Each twin does on live memory, with numpy, what the kernel of the same name does on the GPU. Kernels that
only fill buffers which nothing but other kernels read (input ids, slot mappings, block tables of one group)
have none.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy

from revati.cuda.triton import host_kernel

_loaded = True


def _array(tensor: Any) -> numpy.ndarray:
    from revati import _C

    return _C.live_array(tensor)


def _differences(bounds: numpy.ndarray) -> numpy.ndarray:
    return bounds[1:] - bounds[:-1]  # numpy.diff takes ten times as long for a few elements


@host_kernel("_apply_write_kernel")
def _apply_write(a: dict[str, Any], grid: tuple[int, ...]) -> None:
    n = grid[0]
    rows, starts = _array(a["write_indices_ptr"])[:n], _array(a["write_starts_ptr"])[:n]
    contents, ends = _array(a["write_contents_ptr"]), _array(a["write_cu_lens_ptr"])[:n]
    if a["MULTI_GROUP"]:
        groups = _array(a["write_group_ids_ptr"])[:n]
        pointers, strides = _array(a["output_ptr"]), _array(a["output_stride"])
    else:
        out = _array(a["output_ptr"])
    begin = 0
    for i in range(n):
        end = int(ends[i])
        piece = contents[begin:end]
        if a["MULTI_GROUP"]:
            group = int(groups[i])
            address = int(pointers[group]) + 4 * (int(rows[i]) * int(strides[group]) + int(starts[i]))
            there = memoryview((ctypes.c_int32 * len(piece)).from_address(address))
            numpy.frombuffer(there, dtype=numpy.int32)[:] = piece
        elif out.ndim == 1:
            at = int(rows[i]) + int(starts[i])
            out[at : at + len(piece)] = piece
        else:
            out[int(rows[i]), int(starts[i]) : int(starts[i]) + len(piece)] = piece
        begin = end


@host_kernel("_prepare_pos_seq_lens_kernel")
def _prepare_pos_seq_lens(a: dict[str, Any], grid: tuple[int, ...]) -> None:
    n = grid[0] - 1
    starts = _array(a["query_start_loc_ptr"])[: n + 1]
    computed = _array(a["num_computed_tokens_ptr"])[_array(a["idx_mapping_ptr"])[:n]]
    lengths = _differences(starts)
    seq_lens = _array(a["seq_lens_ptr"])
    seq_lens[:n] = computed + lengths
    seq_lens[n : a["max_num_reqs"]] = 0
    positions = _array(a["pos_ptr"])
    if n and lengths.max(initial=0) == 1 and lengths.min(initial=1) == 1:
        positions[int(starts[0]) : int(starts[-1])] = computed
    elif n:
        offsets = numpy.arange(int(starts[-1]) - int(starts[0])) - numpy.repeat(
            starts[:-1] - starts[0], lengths
        )
        positions[int(starts[0]) : int(starts[-1])] = numpy.repeat(computed, lengths) + offsets


@host_kernel("_get_num_sampled_and_rejected_kernel")
def _num_sampled_and_rejected(a: dict[str, Any], grid: tuple[int, ...]) -> None:
    n = grid[0]
    sampled, rejected = _array(a["num_sampled_ptr"]), _array(a["num_rejected_ptr"])
    prefill = _array(a["prefill_len_ptr"])[_array(a["idx_mapping_ptr"])[:n]]
    chunked = _array(a["seq_lens_ptr"])[:n] < prefill
    sampled[:n] = numpy.where(chunked, 0, sampled[:n])
    logits = _differences(_array(a["cu_num_logits_ptr"])[: n + 1])
    rejected[:n] = numpy.where(chunked, 0, logits - sampled[:n])


@host_kernel("_post_update_kernel")
def _post_update(a: dict[str, Any], grid: tuple[int, ...]) -> None:
    n = grid[0]
    index = _array(a["idx_mapping_ptr"])[:n]
    keep = index >= 0
    rows = index[keep]
    num_sampled, num_rejected = (
        _array(a["num_sampled_ptr"])[:n][keep],
        _array(a["num_rejected_ptr"])[:n][keep],
    )
    tokens = _array(a["sampled_tokens_ptr"])
    tokens = tokens.reshape(tokens.shape[0], -1)[:n][keep]
    total, everything, last = (
        _array(a["total_len_ptr"]),
        _array(a["all_token_ids_ptr"]),
        _array(a["last_sampled_tokens_ptr"]),
    )
    last = last.reshape(-1)
    some = num_sampled > 0
    if num_sampled.max(initial=0) == 1:
        hot, new = rows[some], tokens[some, 0]
        last[hot] = new
        everything[hot, total[hot]] = new
        total[hot] += 1
    else:
        for i in numpy.flatnonzero(some):
            row, count = int(rows[i]), int(num_sampled[i])
            last[row] = tokens[i, count - 1]
            at = int(total[row])
            everything[row, at : at + count] = tokens[i, :count]
            total[row] = at + count
    starts = a["query_start_loc_ptr"]
    lengths = _differences(_array(starts)[: n + 1])[keep] if starts is not None else 0
    computed = _array(a["num_computed_tokens_ptr"])
    computed[rows] += (lengths - num_rejected).astype(computed.dtype)


@host_kernel("_post_update_num_computed_tokens_kernel")
def _post_update_computed(a: dict[str, Any], grid: tuple[int, ...]) -> None:
    n = grid[0]
    computed = _array(a["num_computed_tokens_ptr"])
    rows = _array(a["idx_mapping_ptr"])[:n]
    computed[rows] += _differences(_array(a["query_start_loc_ptr"])[: n + 1]).astype(computed.dtype)


@host_kernel("_expand_idx_mapping_kernel")
def _expand_idx_mapping(a: dict[str, Any], grid: tuple[int, ...]) -> None:
    n = grid[0]
    bounds = _array(a["cu_num_logits_ptr"])[: n + 1]
    counts = _differences(bounds)
    first, last = int(bounds[0]), int(bounds[-1])
    _array(a["expanded_idx_mapping_ptr"])[first:last] = numpy.repeat(_array(a["idx_mapping_ptr"])[:n], counts)
    _array(a["expanded_local_pos_ptr"])[first:last] = numpy.arange(last - first) - numpy.repeat(
        bounds[:-1] - first, counts
    )


@host_kernel("_combine_sampled_and_draft_tokens_kernel")
def _combine_sampled_and_draft_tokens(a: dict[str, Any], grid: tuple[int, ...]) -> None:
    """Which rows of the hidden states become logits: the last of each request. Token ids stay unknown."""
    n = grid[0]
    bounds = _array(a["cu_num_logits_ptr"])[: n + 1].astype(numpy.int64)
    counts = _differences(bounds)
    first_rows = _array(a["query_start_loc_ptr"])[1 : n + 1] - counts
    within = numpy.arange(int(counts.sum())) - numpy.repeat(bounds[:-1] - bounds[0], counts)
    rows = numpy.repeat(first_rows, counts) + within
    _array(a["logits_indices_ptr"])[int(bounds[0]) : int(bounds[-1])] = rows


@host_kernel("_gumbel_sample_kernel")
def _gumbel_sample(a: dict[str, Any], grid: tuple[int, ...]) -> None:
    from revati import _C

    _array(a["local_argmax_ptr"])[:] = _C.token_id()
    _C.mark_phantom(a["local_max_ptr"])
