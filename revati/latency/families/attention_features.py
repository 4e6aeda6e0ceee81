"""Features of attention calls: what the tiles of a FlashAttention-like kernel do, and how long the
roofline takes.

Arguments are arrays of one length, or floats (`families.vectors`); sizes in elements, times in us. Targets
are log(time / (roofline + 5 us)).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from revati.latency.families.vectors import ARRAYS, SCALARS, Xp
from revati.spec import GpuSpec

OFFSET_US = 5.0
BLOCK = 128
Number = Any
"""A float, or a numpy array of float64."""


@dataclass(frozen=True, slots=True)
class Heads:
    """Head configuration. fp8: 1 for an fp8 KV cache."""

    heads: Number
    kv_heads: Number
    dim: Number
    window: Number
    fp8: Number


def decode(
    batch: Number, keys: Number, h: Heads, spec: GpuSpec, xp: Xp = ARRAYS
) -> tuple[Number, Number]:  # fmt: skip
    """(features, roofline us) of `batch` sequences with one new token and `keys` keys each."""
    log2, ceil = xp.log2, xp.ceil
    seen = xp.where(h.window > 0, xp.minimum(keys, h.window), keys)
    flops = 4 * batch * h.heads * h.dim * seen
    kv = 2 * batch * h.kv_heads * h.dim * seen * (2 - h.fp8)
    size = kv + 4 * batch * h.heads * h.dim
    roof = xp.maximum(flops / spec.peak_flops.bf16, size / spec.hbm_bytes_per_s) * 1e6
    group = h.heads / h.kv_heads
    tiles = batch * h.kv_heads * ceil(group / 64)
    blocks = ceil(seen / BLOCK)
    fill = ceil(spec.sm_count / xp.maximum(tiles, 1))
    splits = xp.minimum(xp.maximum(fill, 1), xp.minimum(blocks, 128))
    work = tiles * blocks
    columns = [
        log2(batch), h.heads, h.kv_heads, h.dim, xp.flag(h.window > 0), log2(seen), log2(keys), group,
        log2(flops), log2(size), log2(roof), log2(tiles), tiles / spec.sm_count,
        ceil(tiles / spec.sm_count) * spec.sm_count / tiles, splits, log2(work), log2(kv / spec.l2_bytes),
        h.fp8, log2(batch * h.heads * h.dim), log2(ceil(work / spec.sm_count)),
    ]  # fmt: skip
    return xp.matrix(columns), roof


def _pairs(query: Number, context: Number, window: Number, xp: Xp) -> Number:
    """(query, key) pairs of one causal sequence with `context` keys before its `query` new tokens."""
    full = query * context + query * (query + 1) / 2
    growing = xp.minimum(xp.maximum(window - context, 0), query)
    capped = growing * context + growing * (growing + 1) / 2 + (query - growing) * window
    return xp.where(window > 0, xp.minimum(full, capped), full)


def _tile(h: Heads, xp: Xp) -> tuple[Number, Number]:
    """(query rows, keys) of one tile: FlashAttention 3's `tile_size_fwd_sm90`, causal, paged keys."""
    window, where = h.window > 0, xp.where
    rows = where(h.dim <= 64, 192.0, 128.0)
    wide = where(h.dim <= 64, 128.0, where(h.dim <= 128, 128.0, where(h.dim <= 192, 96.0,
                 where(window, 64.0, 80.0))))  # fmt: skip
    narrow = where(h.dim <= 128, 160.0, where(h.dim <= 192, where(window, 128.0, 160.0),
                   where(window, 64.0, 128.0)))  # fmt: skip
    return rows, where(h.fp8 > 0, narrow, wide)


def _prefill_work(
    batch: Number, query: Number, context: Number, h: Heads, xp: Xp
) -> tuple[Number, Number, Number]:
    """(keys that a sequence reads, operations, bytes) of a prefill call."""
    keys = query + context
    seen = xp.where(h.window > 0, xp.minimum(keys, h.window + query), keys)
    flops = 4 * batch * h.heads * h.dim * _pairs(query, context, h.window, xp)
    kv = 2 * batch * h.kv_heads * h.dim * seen * (2 - h.fp8)
    return seen, flops, kv + 4 * batch * query * h.heads * h.dim


def prefill_roof_us(
    batch: float, query: float, context: float, h: Heads, spec: GpuSpec
) -> float:  # fmt: skip
    """The roofline that `prefill` returns, of one call."""
    _, flops, size = _prefill_work(batch, query, context, h, SCALARS)
    return float(max(flops / spec.peak_flops.bf16 * 1e6, size / spec.hbm_bytes_per_s * 1e6))


def prefill(
    batch: Number, query: Number, context: Number, h: Heads, spec: GpuSpec, xp: Xp = ARRAYS
) -> tuple[Number, Number]:
    """(features, roofline us) of `batch` sequences with `query` new tokens after `context` cached ones.

    The numbers of heads enter through tiles, bytes and the stride of a token in the cache, not as such:
    a raw head count tells trees which row of the table a shape came from, and misleads at another.
    """
    log2, ceil, sm = xp.log2, xp.ceil, spec.sm_count
    keys = query + context
    element = 2 - h.fp8
    seen, flops, size = _prefill_work(batch, query, context, h, xp)
    t_flops, t_memory = flops / spec.peak_flops.bf16 * 1e6, size / spec.hbm_bytes_per_s * 1e6
    roof = xp.maximum(t_flops, t_memory)
    group = h.heads / h.kv_heads
    plain = batch * h.heads * ceil(query / BLOCK)
    packed = batch * h.kv_heads * ceil(query * group / BLOCK)
    waves = ceil(plain / sm)
    deepest = xp.where(h.window > 0, xp.minimum(keys, h.window + BLOCK), keys)
    rows, block = _tile(h, xp)
    tiles = batch * h.heads * ceil(query / rows)
    mean = flops / (4 * h.dim * rows) / tiles
    sm_us = spec.peak_flops.bf16 / sm / 1e6
    longest = xp.maximum(tiles * mean / sm, deepest)
    per_head = keys * h.dim * 2 * element
    columns = [
        log2(batch), h.dim, xp.flag(h.window > 0), log2(query), log2(seen), group,
        log2(flops), log2(size), log2(roof), log2(t_flops), log2(t_memory), log2(plain), log2(packed), waves,
        plain / (waves * sm), log2(deepest * h.dim), log2(deepest * h.dim * BLOCK * 4 / sm_us / roof),
        log2(size / spec.l2_bytes), h.fp8, log2(batch * query * h.heads * h.dim),
        log2(ceil(query / BLOCK) * BLOCK / query), log2(longest * 4 * h.dim * rows / sm_us / roof),
        log2(mean), log2(tiles / sm), ceil(tiles / sm) * sm / tiles, log2(packed / sm), packed / tiles,
        log2(per_head),
        log2(batch * h.kv_heads * per_head / spec.l2_bytes), log2(batch * h.kv_heads), log2(batch * h.heads),
        log2(1 + context),
    ]  # fmt: skip
    # Tiles with the query heads of a group packed into one, and the key blocks that each walks.
    grouped = batch * h.kv_heads * ceil(query * group / rows)
    depth = ceil(xp.where(h.window > 0, xp.minimum(keys, h.window + rows / group), keys) / block)
    walked = xp.minimum(depth, (context + query / 2 + rows / group / 2) / block + 0.5)
    work = grouped * walked
    block_us = 4 * rows * block * h.dim / sm_us
    columns += [
        log2(grouped / sm), ceil(grouped / sm), ceil(grouped / sm) * sm / grouped,
        log2(xp.maximum(work / sm, depth) * block_us / roof), log2(work * block_us / sm / roof),
        log2(work / sm / depth), log2(depth), log2(walked), log2(ceil(grouped / sm) * walked),
        log2(ceil(query * group / rows) * rows / (query * group)),
        log2(h.kv_heads * h.dim), log2(h.kv_heads * h.dim * element), log2(h.heads * h.dim),
    ]  # fmt: skip
    return xp.matrix(columns), roof


def unpacked_reads(
    decodes: Number, head_bytes: Number, h: Heads, spec: GpuSpec, xp: Xp = ARRAYS
) -> Number:  # fmt: skip
    """How often the keys of `decodes` sequences are read where query heads are not packed.

    That is so where any sequence has several new tokens. Blocks run head by head, so the heads of a group
    share keys only while they run side by side, or while L2 holds one KV head of the batch (`head_bytes`).
    """
    group = h.heads / h.kv_heads
    passes = xp.minimum(xp.maximum(xp.ceil(decodes * group / spec.sm_count), 1), group)
    return xp.where(head_bytes <= spec.l2_bytes, 1.0, passes)


@dataclass(frozen=True, slots=True)
class MixedRows:
    """Prefill sequences (count, tokens, context) beside decode sequences (count, mean and longest keys)."""

    seqs: Number
    query: Number
    context: Number
    decodes: Number
    keys: Number
    longest: Number


def mixed(rows: MixedRows, h: Heads, spec: GpuSpec, xp: Xp = ARRAYS) -> tuple[Number, Number]:
    """(features, roofline us) of one call over prefill and decode sequences together."""
    log2, ceil, sm = xp.log2, xp.ceil, spec.sm_count
    element = 2 - h.fp8
    flops_p = 4 * rows.seqs * h.heads * h.dim * _pairs(rows.query, rows.context, h.window, xp)
    keys_p = rows.query + rows.context
    size_p = rows.seqs * (2 * h.kv_heads * keys_p * element + 4 * rows.query * h.heads) * h.dim
    seen = xp.where(h.window > 0, xp.minimum(rows.keys, h.window), rows.keys)
    flops_d = 4 * rows.decodes * h.heads * h.dim * seen
    size_d = rows.decodes * (2 * h.kv_heads * seen * element + 4 * h.heads) * h.dim
    roof_p = xp.maximum(flops_p / spec.peak_flops.bf16, size_p / spec.hbm_bytes_per_s) * 1e6
    roof_d = xp.maximum(flops_d / spec.peak_flops.bf16, size_d / spec.hbm_bytes_per_s) * 1e6
    roof = xp.maximum(
        (flops_p + flops_d) / spec.peak_flops.bf16, (size_p + size_d) / spec.hbm_bytes_per_s
    ) * 1e6  # fmt: skip
    tiles_p = rows.seqs * h.heads * ceil(rows.query / BLOCK)
    tiles_d = rows.decodes * h.heads
    blocks_p = tiles_p * ceil((rows.context + rows.query / 2) / 64)
    blocks_d = tiles_d * ceil(seen / 64)
    serial = xp.maximum(
        keys_p, xp.where(h.window > 0, xp.minimum(rows.longest, h.window), rows.longest)
    )  # fmt: skip
    block_us = 4 * BLOCK * 64 * h.dim / (spec.peak_flops.bf16 / sm) * 1e6
    busy = (blocks_p + blocks_d) / sm * block_us
    critical = ceil(serial / 64) * block_us
    total = tiles_p + tiles_d
    columns = [
        h.heads, h.kv_heads, h.dim, h.heads / h.kv_heads, log2(rows.seqs), log2(rows.query),
        log2(1 + rows.context), log2(rows.decodes), log2(rows.keys), log2(roof_p), log2(roof_d), log2(roof),
        log2(roof_p / roof_d), log2(tiles_p), log2(tiles_d), log2(total / sm), ceil(total / sm) * sm / total,
        log2(blocks_p), log2(blocks_d), log2(busy / roof), log2(critical / roof), log2(critical / busy),
        log2(serial), log2(keys_p / rows.keys), log2((size_p + size_d) / spec.l2_bytes),
        log2(size_d / spec.l2_bytes), log2(size_p / spec.l2_bytes), h.fp8,
    ]  # fmt: skip
    one_d = rows.decodes * seen * 2 * h.dim * element
    one_p = rows.seqs * keys_p * 2 * h.dim * element
    reads = unpacked_reads(rows.decodes, one_d + one_p, h, spec, xp)
    traffic = (one_d * reads + one_p) * h.kv_heads / spec.hbm_bytes_per_s * 1e6
    columns += [log2(traffic / roof), log2(xp.maximum(traffic, busy) / roof), log2(traffic / busy)]
    return xp.matrix(columns), roof
