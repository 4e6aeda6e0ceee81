"""Helpers: records as the device would make them."""

from __future__ import annotations

from typing import Any

import numpy as np

from revati.latency import OpRecord, TensorArg


def tensor(*shape: int, dtype: str = "bfloat16", values: Any = None) -> TensorArg:
    """A contiguous tensor argument."""
    stride, step = [], 1
    for size in reversed(shape):
        stride.append(step)
        step *= size
    array = None if values is None else np.array(values)
    return TensorArg(tuple(shape), tuple(reversed(stride)), dtype, array)


def record(name: str, outputs: tuple[TensorArg, ...] = (), /, **args: Any) -> OpRecord:
    """A record with named arguments, in the order given."""
    return OpRecord(name, tuple(args.values()), outputs, tuple(args))


def mm(m: int, n: int, k: int) -> OpRecord:
    """aten::mm in bf16."""
    return record("aten::mm", (tensor(m, n),), self=tensor(m, k), mat2=tensor(k, n))


def flash(seqs: list[tuple[int, int]], heads: int = 32, kv_heads: int = 8, dim: int = 128) -> OpRecord:
    """A FlashAttention 3 call over (new tokens, keys) of each sequence, lengths live."""
    starts = np.cumsum([0, *(q for q, _ in seqs)])
    cache = tensor(4096, 16, kv_heads, dim)
    return record(
        "_vllm_fa3_C::fwd",
        q=tensor(int(starts[-1]), heads, dim),
        k=cache,
        v=cache,
        cu_seqlens_q=tensor(len(starts), dtype="int32", values=starts),
        cu_seqlens_k=None,
        seqused_k=tensor(len(seqs), dtype="int32", values=[k for _, k in seqs]),
        max_seqlen_q=max(q for q, _ in seqs),
        is_causal=True,
        window_size_left=-1,
    )
