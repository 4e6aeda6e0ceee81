"""Speculative decoding without values: which draft tokens the verifier accepts, and the bookkeeping after it.

Drafts and logits are phantoms, so acceptance follows a policy. With vLLM's
`rejection_sample_method="synthetic"` it is vLLM's own: its acceptance rates for each draft position.
Otherwise every draft token is accepted with the probability `REVATI_ACCEPTANCE_RATE` (0.7 if unset), given
that those before it were. Both decide by a hash of the request's row and the token's position, not by a
random number: the same run gives the same result, and rates hold over many tokens.
"""

from __future__ import annotations

import os
from functools import cache
from typing import Any

import numpy

from revati.cuda import refusal
from revati.cuda.triton import host_kernel

RATE_ENV = "REVATI_ACCEPTANCE_RATE"
DEFAULT_RATE = 0.7
"""A round figure for a well-matched draft; sweep it, or give vLLM's synthetic method the measured rates."""


@cache
def acceptance_rate() -> float:
    """Conditional acceptance rate of a draft token, from the environment.

    Raises:
        ValueError: the variable holds no number from 0 to 1.
    """
    text = os.environ.get(RATE_ENV, "")
    if not text:
        return DEFAULT_RATE
    try:
        rate = float(text)
    except ValueError:
        rate = -1.0
    if not 0.0 <= rate <= 1.0:
        message = f"{RATE_ENV}={text}: expected a number from 0 to 1, the share of drafts to accept"
        refusal.note(message)
        raise ValueError(message)
    return rate


def uniform(row: int, position: int) -> float:
    """A number in [0, 1) that looks random and depends on its arguments only (splitmix64)."""
    mask = (1 << 64) - 1
    x = ((row + 1) * 0x9E3779B97F4A7C15 + position * 0xD1B54A32D192ED03) & mask
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & mask
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & mask
    return ((x ^ (x >> 31)) >> 11) / (1 << 53)


def _array(tensor: Any) -> numpy.ndarray:
    from revati import _C

    return _C.live_array(tensor)


@host_kernel("_gather_draft_sampled_kernel")
def _gather_draft_sampled(a: dict[str, Any], grid: tuple[int, ...]) -> None:
    from revati import _C

    n = a["num_logits"]
    position = _array(a["positions_ptr"])[_array(a["logits_indices_ptr"])[:n]]
    local = _array(a["expanded_local_pos_ptr"])[:n]
    prefill = _array(a["prefill_len_ptr"])[_array(a["expanded_idx_mapping_ptr"])[:n]]
    placeholder = (local > 0) & (position - local < prefill)
    _array(a["draft_sampled_ptr"])[:n] = numpy.where(placeholder, -1, _C.token_id())
    _array(a["pos_ptr"])[:n] = position


@host_kernel("_rejection_kernel")
def _rejection(a: dict[str, Any], grid: tuple[int, ...]) -> None:
    from revati import _C

    n = grid[0]
    bounds = _array(a["cu_num_logits_ptr"])[: n + 1]
    rows, positions = _array(a["idx_mapping_ptr"])[:n], _array(a["pos_ptr"])
    drafts, accepted = _array(a["draft_sampled_ptr"]), _array(a["rejected_steps_ptr"])
    synthetic = _array(a["synthetic_conditional_rates_ptr"]) if a["SYNTHETIC_MODE"] else None
    _array(a["sampled_ptr"])[:n] = _C.token_id()
    for request in range(n):
        first, count = int(bounds[request]), 0
        for draft in range(int(bounds[request + 1]) - first - 1):
            rate = acceptance_rate() if synthetic is None else float(synthetic[draft])
            known = drafts[first + draft + 1] >= 0
            if not known or uniform(int(rows[request]), int(positions[first + draft])) >= rate:
                break
            count += 1
        accepted[request] = count


@host_kernel("_insert_resampled_kernel")
def _insert_resampled(a: dict[str, Any], grid: tuple[int, ...]) -> None:
    _array(a["num_sampled_ptr"])[: grid[0]] += 1  # the token after the last accepted draft; its id is there


@host_kernel("_prepare_prefill_inputs_kernel")
def _prepare_draft_prefill(a: dict[str, Any], grid: tuple[int, ...]) -> None:
    if "out_positions_ptr" in a:  # vLLM has three kernels of this name: of EAGLE, of draft models, and one
        _prepare_draft_model_prefill(a, grid[0])
    if "draft_positions_ptr" not in a:  # of the target model, which only copies token ids
        return
    n, most = grid[0], a["max_num_reqs"]
    starts = _array(a["query_start_loc_ptr"])[: n + 1].astype(numpy.int64)
    lengths = numpy.diff(starts) - _array(a["num_rejected_ptr"])[:n]
    last = _array(a["last_token_indices_ptr"])
    last[:n] = starts[:-1] + lengths - 1
    last[n:most] = 0
    begin, end = int(starts[0]), int(starts[-1])
    _array(a["draft_positions_ptr"])[begin:end] = _array(a["target_positions_ptr"])[begin:end]
    draft_starts, seq_lens = _array(a["draft_query_start_loc_ptr"]), _array(a["draft_seq_lens_ptr"])
    draft_starts[:n] = starts[:-1]
    draft_starts[n : most + 1] = end
    seq_lens[:n] = _array(a["seq_lens_ptr"])[:n]
    seq_lens[n:most] = 0
    _array(a["draft_current_step_ptr"])[...] = 0


def _prepare_draft_model_prefill(a: dict[str, Any], n: int) -> None:
    """A draft model reads the step's tokens and the one that the verifier put after them."""
    most, limit = a["max_num_reqs"], a["max_model_len"]
    starts = _array(a["query_start_loc_ptr"])[: n + 1].astype(numpy.int64)
    lengths = numpy.diff(starts)
    begin = starts[:-1] + numpy.arange(n)
    total = int(starts[-1]) + n
    within = numpy.arange(total - int(begin[0])) - numpy.repeat(begin - begin[0], lengths + 1)
    first = _array(a["target_positions_ptr"])[starts[:-1]]
    positions = numpy.repeat(first, lengths + 1) + within
    _array(a["out_positions_ptr"])[int(begin[0]) : total] = numpy.minimum(positions, limit - 1)
    last, out_starts = _array(a["last_token_indices_ptr"]), _array(a["out_query_start_loc_ptr"])
    last[:n] = begin + lengths - _array(a["num_rejected_ptr"])[:n]
    last[n:most] = 0
    out_starts[:n] = begin
    out_starts[n : most + 1] = total
    seq_lens = _array(a["out_seq_lens_ptr"])
    seq_lens[:n] = numpy.minimum(_array(a["seq_lens_ptr"])[:n] + 1, limit)
    seq_lens[n:most] = 0


@host_kernel("_prepare_decode_inputs_kernel")
def _prepare_draft_decode(a: dict[str, Any], grid: tuple[int, ...]) -> None:
    n, most, limit = grid[0] - 1, a["max_num_reqs"], a["max_model_len"]
    _array(a["query_start_loc_ptr"])[: most + 1] = numpy.minimum(numpy.arange(most + 1), n)
    _array(a["sample_src_positions_ptr"])[:n] += 1
    lengths = _array(a["target_seq_lens_ptr"])[:n] - _array(a["num_rejected_ptr"])[:n]
    if a["ADVANCE_DRAFT_POSITIONS"]:
        positions = _array(a["positions_ptr"])
        positions[:n] = numpy.minimum(positions[:n] + 1, limit - 1)
        lengths = numpy.minimum(lengths + 1, limit)
    seq_lens = _array(a["seq_lens_ptr"])
    seq_lens[:n] = lengths
    seq_lens[n:most] = 0


@host_kernel("_update_draft_inputs_kernel")
def _update_draft_inputs(a: dict[str, Any], grid: tuple[int, ...]) -> None:
    n, limit = grid[0], a["max_model_len"]
    if int(_array(a["current_draft_step_ptr"]).reshape(-1)[0]) >= a["num_speculative_steps"] - 1:
        return
    _array(a["sample_src_positions_ptr"])[:n] += 1
    if a["ADVANCE_DRAFT_POSITIONS"]:
        positions, seq_lens = _array(a["positions_ptr"]), _array(a["seq_lens_ptr"])
        positions[:n] = numpy.minimum(positions[:n] + 1, limit - 1)
        seq_lens[:n] = numpy.minimum(seq_lens[:n] + 1, limit)
