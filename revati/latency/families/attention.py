"""Attention time over ragged batches: decode, prefill and mixed models behind one estimator.

A call is described by its decode sequences (count, mean and longest keys) and its prefill sequences
(count, mean new tokens, and the context that gives the same number of query-key pairs). Models are asked
at the sizes that were measured, and interpolated linearly between them: trees are constant between
measured lengths, kernels not.
"""

from __future__ import annotations

import bisect
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from revati.latency.families import attention_features as af
from revati.latency.families.booster import Booster, confidence
from revati.latency.families.vectors import SCALARS
from revati.latency.ops.attention import visible_keys, visible_pairs
from revati.latency.work import AttentionShape, Work

if TYPE_CHECKING:
    from revati.latency.store import Profile

EMPTY_NS = 3000.0
COLD_HBM_EFFICIENCY, WARM_L2_EFFICIENCY, RESIDENT_SHARE = 0.815, 0.85, 0.8
"""From the slopes of decode time over KV bytes on an H100, below and above its L2 size: 4.7 and 2.73 TB/s."""
OVERLAP = 1.0
"""Share of the shorter part that a call over both parts pays beside the longer one, where no mixed call was
measured. FlashAttention 3 packs the heads of a group: the sum."""
FA2_ROWS, FA2_WAVES, FA2_HBM_EFFICIENCY = 64, 4, 0.9
"""FlashAttention 2 (cards before sm_90) does not, when any sequence has several new tokens: a query head of
one new token takes a tile of 64 rows (`kBlockM` of its kernel for paged keys), and reads its keys itself. On
the measured mixed calls of two RTX cards the sum is off by 33 and 40%, tiles at the rate of a card full of
prefills by 13% (`python -m benchmarks.mixed_attention`)."""

Parts = tuple[int, float, int, int, float, float]  # decodes, mean keys, longest; prefills, mean new, context


def split(shape: AttentionShape) -> Parts:
    """Decode and prefill parts of a call; context is fractional where sequences differ."""
    decodes = longest = prefills = queries = 0
    keys = pairs = 0.0
    for query, total in shape.seqs:
        if query == 1:
            decodes += 1
            keys += total
            longest = max(longest, total)
        else:
            prefills += 1
            queries += query
            pairs += query * (total - query) + query * (query + 1) / 2
    mean_q = queries / prefills if prefills else 0.0
    context = max(0.0, pairs / queries - (mean_q + 1) / 2) if queries else 0.0
    return decodes, keys / decodes if decodes else 0.0, longest, prefills, mean_q, context


def bracket(grid: list[float], value: float, *, logarithmic: bool = False) -> list[tuple[float, float]]:
    """(node, weight) of the one or two grid nodes around `value`; beyond the grid, `value` itself."""
    if not grid or value <= grid[0] or value >= grid[-1]:
        return [(value, 1.0)]
    i = bisect.bisect_right(grid, value)
    low, high = grid[i - 1], grid[i]
    if low == value:
        return [(value, 1.0)]
    share = math.log(value / low) / math.log(high / low) if logarithmic else (value - low) / (high - low)
    return [(low, 1.0 - share), (high, share)]


class AttentionEstimator:
    """Loaded attention models of one profile: `decode`, `prefill` and, where measured, `mixed`."""

    def __init__(self, profile: Profile, models: dict[str, dict[str, Any]]) -> None:
        self.spec = profile.spec
        self.boosters = {entry["part"]: Booster(profile, entry) for entry in models.values()}
        self.unpacked = self.spec.compute_capability < (9, 0)  # FlashAttention 2
        self._nodes: dict[tuple[Any, ...], float] = {}
        self._calls: dict[tuple[Any, ...], tuple[float, str]] = {}

    def estimate(self, work: Work) -> tuple[float, str] | None:
        """(ns, confidence) of one call."""
        shape = work.shape
        assert isinstance(shape, AttentionShape)
        if not shape.seqs:
            return EMPTY_NS, "edge"
        if not shape.causal:
            return self._not_causal(shape)
        parts = split(shape)
        key = (
            shape.heads,
            shape.kv_heads,
            shape.head_dim,
            shape.head_dim_v,
            shape.window,
            shape.kv_kind,
            parts,
        )
        hit = self._calls.get(key)
        if hit is None:
            computed = self._compute(shape, parts)
            if computed is None:
                return None
            hit = computed
            if len(self._calls) < 100_000:
                self._calls[key] = hit
        ns, flag = hit
        return ns, flag if shape.known else "outside"

    def _compute(self, shape: AttentionShape, parts: Parts) -> tuple[float, str] | None:
        decodes, keys, _longest, prefills, query, context = parts
        if decodes and prefills and "mixed" in self.boosters:
            return self._mixed(shape, parts)
        prefill = self._prefill(shape, prefills, query, context) if prefills else None
        decode = None
        if decodes:
            unpacked = self.unpacked and prefill is not None
            decode = self._unpacked(shape, parts) if unpacked else self._decode(shape, decodes, keys)
        if decode is not None and prefill is not None:
            floor = min(decode[0], prefill[0], EMPTY_NS * 2)
            long, short = max(decode[0], prefill[0]) - floor, min(decode[0], prefill[0]) - floor
            flag = "outside" if "outside" in (decode[1], prefill[1]) else "edge"
            return floor + long + OVERLAP * short, flag
        return decode or prefill

    def _heads(self, shape: AttentionShape) -> af.Heads:
        dim = (shape.head_dim + shape.head_dim_v) / 2 if shape.head_dim_v else shape.head_dim / 2
        return af.Heads(
            float(shape.heads), float(shape.kv_heads), float(dim), float(shape.window),
            1.0 if shape.kv_kind == "fp8" else 0.0,
        )  # fmt: skip

    def _flag(self, booster: Booster, shape: AttentionShape, **sizes: float) -> str:
        return confidence(
            booster.ranges,
            {"heads": shape.heads, "kv_heads": shape.kv_heads, "head_dim": shape.head_dim, **sizes},
        )

    def _decode(self, shape: AttentionShape, count: int, keys: float) -> tuple[float, str] | None:
        booster = self.boosters.get("decode")
        if booster is None:
            return None
        grid = booster.entry["grid"]
        nodes = [
            (b, k, wb * wk)
            for b, wb in bracket(grid["decode_seqs"], count)
            for k, wk in bracket(grid["decode_kv"], keys)
        ]
        head = (
            "d",
            shape.heads,
            shape.kv_heads,
            shape.head_dim,
            shape.head_dim_v,
            shape.window,
            shape.kv_kind,
        )
        missing = [(b, k) for b, k, _ in nodes if (*head, b, k) not in self._nodes]
        if missing:
            heads = self._heads(shape)
            rows = [af.decode(float(b), float(k), heads, self.spec, SCALARS) for b, k in missing]
            logs = booster.predict(np.concatenate([matrix for matrix, _ in rows]))
            for (b, k), (_, roof), log in zip(missing, rows, logs, strict=True):
                self._nodes[(*head, b, k)] = math.exp(log) * (roof + af.OFFSET_US) * 1e3
        total = sum(w * self._nodes[(*head, b, k)] for b, k, w in nodes) - booster.gap_ns
        if booster.l2_warm:
            total += self._cold_ns(shape, count, keys)
        return total, self._flag(booster, shape, decode_seqs=count, decode_kv=keys)

    def _cold_ns(self, shape: AttentionShape, count: int, keys: float) -> float:
        """What timing on the same buffers leaves out: the table's KV came from L2, not from memory."""
        kv_bytes = 1.0 if shape.kv_kind == "fp8" else 2.0
        dims = shape.head_dim + shape.head_dim_v
        size = count * visible_keys(1, round(keys), shape.window) * shape.kv_heads * dims * kv_bytes
        resident = 1.0 / (1.0 + (size / (RESIDENT_SHARE * self.spec.l2_bytes)) ** 4)
        slow = size / (COLD_HBM_EFFICIENCY * self.spec.hbm_bytes_per_s)
        return max(0.0, resident * (slow - size / (WARM_L2_EFFICIENCY * self.spec.l2_bytes_per_s))) * 1e9

    def _prefill(
        self, shape: AttentionShape, count: int, query: float, context: float
    ) -> tuple[float, str] | None:
        booster = self.boosters.get("prefill")
        if booster is None:
            return None
        flag = self._flag(booster, shape, prefill_seqs=count, prefill_q=query, prefill_context=context)
        if context > 0 and not booster.entry["has_context"]:
            # Same tiles, same work a tile: a longer prompt in fewer sequences stands for the cached context.
            longer = query + 2 * context
            rows = max(query, 128.0)
            ns = self._prefill_nodes(
                booster, shape, count * rows / (rows + 2 * context), rows + 2 * context, 0.0
            )
            ranges = {"prefill_q": longer}
            flag = "edge" if confidence(booster.ranges, ranges) != "outside" else "outside"
            return ns, flag
        return self._prefill_nodes(booster, shape, count, query, context), flag

    def _prefill_nodes(
        self, booster: Booster, shape: AttentionShape, count: float, query: float, context: float
    ) -> float:
        heads = self._heads(shape)
        longest = booster.ranges["prefill_q"][1]
        asked, at = count, query
        if query > longest and not context:
            # Trees take longer sequences than were measured for wider heads: as many tiles of the longest.
            asked, at = count * query / longest, longest
        nodes = bracket(booster.entry["grid"]["prefill_q"], at, logarithmic=True)
        rows = [af.prefill(float(asked), q, float(context), heads, self.spec, SCALARS)[0] for q, _ in nodes]
        logs = booster.predict(np.concatenate(rows))
        value = sum(w * float(log) for (_, w), log in zip(nodes, logs, strict=True))
        roof = af.prefill_roof_us(float(count), float(query), float(context), heads, self.spec)
        return math.exp(value) * (roof + af.OFFSET_US) * 1e3 - booster.gap_ns

    def _unpacked(self, shape: AttentionShape, parts: Parts) -> tuple[float, str] | None:
        """What decode sequences beside prefills cost FlashAttention 2."""
        if "decode" not in self.boosters:
            return None
        decodes, keys, _longest, prefills, query, context = parts
        heads, spec = self._heads(shape), self.spec
        seen = float(visible_keys(1, round(keys), shape.window))
        longer = FA2_ROWS + 2 * seen  # a causal prompt with as many pairs a row as a tile over `seen` keys
        prompts = decodes * FA2_ROWS / longer
        full = max(1.0, prompts, FA2_WAVES * spec.sm_count / shape.heads * FA2_ROWS / longer)
        tiles_ns = self._prefill_nodes(self.boosters["prefill"], shape, full, longer, 0.0) * prompts / full
        per_key = 2 * heads.dim * (2 - heads.fp8)
        one = decodes * seen * per_key
        both = one + prefills * (query + context) * per_key
        reads = af.unpacked_reads(float(decodes), both, heads, spec, SCALARS)
        traffic_ns = one * reads * heads.kv_heads / spec.hbm_bytes_per_s / FA2_HBM_EFFICIENCY * 1e9
        flag = self._flag(self.boosters["decode"], shape, decode_seqs=decodes, decode_kv=keys)
        return max(tiles_ns, traffic_ns), flag

    def _mixed(self, shape: AttentionShape, parts: Parts) -> tuple[float, str]:
        booster = self.boosters["mixed"]
        decodes, keys, longest, prefills, query, context = parts
        sizes = [float(x) for x in (prefills, query, context, decodes, keys, longest)]
        matrix, roof = af.mixed(af.MixedRows(*sizes), self._heads(shape), self.spec, SCALARS)
        value = float(booster.predict(matrix)[0])
        ns = math.exp(value) * (roof + af.OFFSET_US) * 1e3 - booster.gap_ns
        flag = self._flag(
            booster, shape, decode_seqs=decodes, decode_kv=keys, prefill_q=query, prefill_context=context
        )  # fmt: skip
        return ns, "edge" if prefills > 1 and flag == "in_range" else flag

    def _not_causal(self, shape: AttentionShape) -> tuple[float, str] | None:
        """Every query against every key (encoders, cached prompts of latent attention).

        It costs what a causal call with as many pairs does: one whose context makes up for what the mask
        hides, or, where there are too few keys for that, longer sequences in a smaller, fractional number.
        """
        booster = self.boosters.get("prefill")
        if booster is None:
            return None
        pairs = sum(visible_pairs(q, k, shape.window, False) for q, k in shape.seqs)
        queries = sum(q for q, _ in shape.seqs)
        query = queries / len(shape.seqs)
        context = pairs / queries - (query + 1) / 2
        if context >= 0:
            result = self._prefill(shape, len(shape.seqs), query, context)
            return None if result is None else (result[0], "outside")
        longer = max(1.0, 2.0 * pairs / queries)
        return self._prefill_nodes(booster, shape, queries / longer, longer, 0.0), "outside"
