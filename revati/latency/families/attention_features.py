"""Features of attention calls: what the tiles of a FlashAttention-like kernel do, and how long the
roofline takes.

All arguments are arrays of one length; sizes in elements, times in us. Targets are log(time / (roofline
+ 5 us)).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from revati.spec import GpuSpec

OFFSET_US = 5.0
BLOCK = 128
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Heads:
    """Per-row head configuration. fp8: 1 for an fp8 KV cache."""

    heads: Array
    kv_heads: Array
    dim: Array
    window: Array
    fp8: Array


def _log2(x: Array) -> Array:
    return np.log2(np.maximum(x, 1e-9))


def decode(batch: Array, keys: Array, h: Heads, spec: GpuSpec) -> tuple[Array, Array]:
    """(features, roofline us) of `batch` sequences with one new token and `keys` keys each."""
    seen = np.where(h.window > 0, np.minimum(keys, h.window), keys)
    flops = 4 * batch * h.heads * h.dim * seen
    kv = 2 * batch * h.kv_heads * h.dim * seen * (2 - h.fp8)
    size = kv + 4 * batch * h.heads * h.dim
    roof = np.maximum(flops / spec.peak_flops.bf16, size / spec.hbm_bytes_per_s) * 1e6
    group = h.heads / h.kv_heads
    tiles = batch * h.kv_heads * np.ceil(group / 64)
    blocks = np.ceil(seen / BLOCK)
    fill = np.ceil(spec.sm_count / np.maximum(tiles, 1))
    splits = np.clip(fill, 1, np.minimum(blocks, 128))
    work = tiles * blocks
    columns = [
        _log2(batch), h.heads, h.kv_heads, h.dim, (h.window > 0).astype(float), _log2(seen), _log2(keys),
              group,
        _log2(flops), _log2(size), _log2(roof), _log2(tiles), tiles / spec.sm_count,
        np.ceil(tiles / spec.sm_count) * spec.sm_count / tiles, splits, _log2(work),
                _log2(kv / spec.l2_bytes), h.fp8,
        _log2(batch * h.heads * h.dim), _log2(np.ceil(work / spec.sm_count)),
    ]  # fmt: skip
    return np.column_stack(columns), roof


def _pairs(query: Array, context: Array, window: Array) -> Array:
    """(query, key) pairs of one causal sequence with `context` keys before its `query` new tokens."""
    full = query * context + query * (query + 1) / 2
    limit = np.where(window > 0, window, np.inf)
    growing = np.clip(limit - context, 0, query)
    capped = np.where(
        np.isfinite(limit),
        growing * context + growing * (growing + 1) / 2 + (query - growing) * np.where(window > 0, window, 0),
        full,
    )
    return np.minimum(full, capped)


def prefill(batch: Array, query: Array, context: Array, h: Heads, spec: GpuSpec) -> tuple[Array, Array]:
    """(features, roofline us) of `batch` sequences with `query` new tokens after `context` cached ones."""
    keys = query + context
    seen = np.where(h.window > 0, np.minimum(keys, h.window + query), keys)
    flops = 4 * batch * h.heads * h.dim * _pairs(query, context, h.window)
    kv = 2 * batch * h.kv_heads * h.dim * seen * (2 - h.fp8)
    size = kv + 4 * batch * query * h.heads * h.dim
    t_flops, t_memory = flops / spec.peak_flops.bf16 * 1e6, size / spec.hbm_bytes_per_s * 1e6
    roof = np.maximum(t_flops, t_memory)
    group = h.heads / h.kv_heads
    plain = batch * h.heads * np.ceil(query / BLOCK)
    packed = batch * h.kv_heads * np.ceil(query * group / BLOCK)
    waves = np.ceil(plain / spec.sm_count)
    deepest = np.where(h.window > 0, np.minimum(keys, h.window + BLOCK), keys)
    rows = np.where(h.dim <= 64, 192, BLOCK)
    tiles = batch * h.heads * np.ceil(query / rows)
    mean = flops / (4 * h.dim * rows) / tiles
    sm_us = spec.peak_flops.bf16 / spec.sm_count / 1e6
    longest = np.maximum(tiles * mean / spec.sm_count, deepest)
    per_head = keys * h.dim * 2 * (2 - h.fp8)
    columns = [
        _log2(batch), h.heads, h.kv_heads, h.dim, (h.window > 0).astype(float), _log2(query),
              _log2(seen), group,
        _log2(flops), _log2(size), _log2(roof), _log2(t_flops), _log2(t_memory), _log2(plain),
              _log2(packed), waves,
        plain / (waves * spec.sm_count), _log2(deepest * h.dim),
        _log2(deepest * h.dim * BLOCK * 4 / sm_us / roof), _log2(size / spec.l2_bytes), h.fp8,
        _log2(batch * query * h.heads * h.dim), _log2(np.ceil(query / BLOCK) * BLOCK / query),
        _log2(longest * 4 * h.dim * rows / sm_us / roof), _log2(mean), _log2(tiles / spec.sm_count),
        np.ceil(tiles / spec.sm_count) * spec.sm_count / tiles, _log2(packed / spec.sm_count), packed / tiles,
        _log2(per_head), _log2(batch * h.kv_heads * per_head / spec.l2_bytes), _log2(batch * h.kv_heads),
        _log2(batch * h.heads), _log2(1 + context),
    ]  # fmt: skip
    return np.column_stack(columns), roof


@dataclass(frozen=True)
class MixedRows:
    """Prefill sequences (count, tokens, context) beside decode sequences (count, mean and longest keys)."""

    seqs: Array
    query: Array
    context: Array
    decodes: Array
    keys: Array
    longest: Array


def mixed(rows: MixedRows, h: Heads, spec: GpuSpec) -> tuple[Array, Array]:
    """(features, roofline us) of one call over prefill and decode sequences together."""
    flops_p = 4 * rows.seqs * h.heads * h.dim * _pairs(rows.query, rows.context, h.window)
    keys_p = rows.query + rows.context
    size_p = rows.seqs * (2 * h.kv_heads * keys_p * (2 - h.fp8) + 4 * rows.query * h.heads) * h.dim
    seen = np.where(h.window > 0, np.minimum(rows.keys, h.window), rows.keys)
    flops_d = 4 * rows.decodes * h.heads * h.dim * seen
    size_d = rows.decodes * (2 * h.kv_heads * seen * (2 - h.fp8) + 4 * h.heads) * h.dim
    roof_p = np.maximum(flops_p / spec.peak_flops.bf16, size_p / spec.hbm_bytes_per_s) * 1e6
    roof_d = np.maximum(flops_d / spec.peak_flops.bf16, size_d / spec.hbm_bytes_per_s) * 1e6
    roof = np.maximum(
        (flops_p + flops_d) / spec.peak_flops.bf16, (size_p + size_d) / spec.hbm_bytes_per_s
    ) * 1e6  # fmt: skip
    tiles_p = rows.seqs * h.heads * np.ceil(rows.query / BLOCK)
    tiles_d = rows.decodes * h.heads
    blocks_p = tiles_p * np.ceil((rows.context + rows.query / 2) / 64)
    blocks_d = tiles_d * np.ceil(seen / 64)
    serial = np.maximum(keys_p, np.minimum(rows.longest, np.where(h.window > 0, h.window, rows.longest)))
    block_us = 4 * BLOCK * 64 * h.dim / (spec.peak_flops.bf16 / spec.sm_count) * 1e6
    busy = (blocks_p + blocks_d) / spec.sm_count * block_us
    critical = np.ceil(serial / 64) * block_us
    total = tiles_p + tiles_d
    columns = [
        h.heads, h.kv_heads, h.dim, h.heads / h.kv_heads, _log2(rows.seqs), _log2(rows.query),
                                                                _log2(1 + rows.context),
        _log2(rows.decodes), _log2(rows.keys), _log2(roof_p), _log2(roof_d), _log2(roof),
              _log2(roof_p / roof_d),
        _log2(tiles_p), _log2(tiles_d), _log2(total / spec.sm_count),
        np.ceil(total / spec.sm_count) * spec.sm_count / total, _log2(blocks_p), _log2(blocks_d),
        _log2(busy / roof), _log2(critical / roof), _log2(critical / busy), _log2(serial),
              _log2(keys_p / rows.keys),
        _log2((size_p + size_d) / spec.l2_bytes), _log2(size_d / spec.l2_bytes),
               _log2(size_p / spec.l2_bytes),
        h.fp8,
    ]  # fmt: skip
    return np.column_stack(columns), roof
