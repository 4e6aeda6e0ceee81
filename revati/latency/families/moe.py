"""Grouped-GEMM time of a mixture-of-experts layer.

Tables time the whole expert computation (both products, alignment, activation, sum) with a balanced
load: every token picks experts in turn. The estimator splits that over the two products by their
weights, takes off the small kernels that the engine launches (and the device prices) on its own, and
moves from the balanced load to uniformly random routing by the ratio of the rooflines
(`ops.moe.active_experts`).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from revati.latency.bandwidth import DEFAULTS
from revati.latency.families.booster import Booster, confidence
from revati.latency.families.vectors import ARRAYS, SCALARS, Xp
from revati.latency.ops.gemm import WEIGHT_BYTES
from revati.latency.ops.moe import active_experts
from revati.latency.work import MoeShape, Work
from revati.spec import GpuSpec

if TYPE_CHECKING:
    from revati.latency.store import Profile

OFFSET_US = 5.0
_BYTES = 2.0  # of an activation
SMALL_KERNELS = 3
"""Kernels of a layer beside the two products: alignment, activation, sum."""
_INSIDE = ("mxfp4_wo",)
"""Kinds whose kernels (Triton's own, `_matmul_ogs`) have activation and sum inside."""
Number = Any
"""A float, or a numpy array of float64."""
_PEAK = {"fp8_block": "fp8", "int4_wo": "bf16", "mxfp4_wo": "bf16", "mxfp4": "fp8", "int8_wo": "bf16"}
_WEIGHT = {**WEIGHT_BYTES, "mxfp4_wo": 0.53, "mxfp4": 0.53}
KINDS = ("bf16", "fp8", "fp8_block", "int4_wo", "fp4", "mxfp4_wo", "mxfp4")


def features(
    tokens: Number,
    topk: Number,
    experts: Number,
    hidden: Number,
    inter: Number,
    kind: str,
    active: Number,
    spec: GpuSpec,
    xp: Xp = ARRAYS,
) -> tuple[Number, Number]:
    """(features, roofline us) of both products of one layer; `inter` and `experts` as on one rank."""
    rows = tokens * topk
    weight = _WEIGHT.get(kind, 2.0)
    peak = spec.peak_flops.rate(_PEAK.get(kind, kind))
    flops = 6.0 * rows * hidden * inter
    weights = 3.0 * active * hidden * inter * weight
    size = weights + rows * (2.0 * hidden + 3.0 * inter) * 2.0
    t_flops, t_memory = flops / peak * 1e6, size / spec.hbm_bytes_per_s * 1e6
    log2, ceil = xp.log2, xp.ceil
    roof = xp.maximum(t_flops, t_memory)
    per = rows / active
    columns = [log2(tokens), topk, log2(experts), log2(hidden), log2(inter), log2(rows), log2(active)]
    columns += [log2(per), log2(flops), log2(size), log2(roof), log2(t_flops), log2(t_memory)]
    columns.append(log2(weights / spec.l2_bytes))
    for block in (16, 64, 128):
        tiles = active * ceil(per / block) * ceil(2 * inter / 128)
        waves = ceil(tiles / spec.sm_count)
        columns += [log2(tiles), tiles / (waves * spec.sm_count), ceil(per / block) * block / per]
    columns.append(0.0 * tokens + (float(KINDS.index(kind)) if kind in KINDS else -1.0))
    return xp.matrix(columns), roof


def balanced_experts(tokens: Number, topk: Number, experts: Number, xp: Xp = ARRAYS) -> Number:
    """Experts with work when tokens take them in turn."""
    return xp.minimum(experts, tokens * topk)


class MoeEstimator:
    """Loaded expert models of one profile (one booster, the kind being a feature)."""

    def __init__(self, profile: Profile, models: dict[str, dict[str, Any]]) -> None:
        self.spec = profile.spec
        entry = next(iter(models.values()))
        self.booster = Booster(profile, entry)
        self.kinds: list[str] = entry["kinds"]
        self._activation, self._aux = (
            profile.bandwidth.get(family, DEFAULTS[family]) for family in ("activation", "moe_aux")
        )
        self._cache: dict[MoeShape, tuple[float, str]] = {}

    def estimate(self, work: Work) -> tuple[float, str] | None:
        """(ns, confidence) of one product (or of both, stage "both")."""
        shape = work.shape
        assert isinstance(shape, MoeShape)
        hit = self._cache.get(shape)
        if hit is None:
            hit = self._compute(shape)
            self._cache[shape] = hit
        return hit

    def _small_kernels_ns(self, shape: MoeShape, hidden: float, inter: float) -> float:
        """What alignment, activation and sum take as kernels of their own, which the tables' times hold."""
        rows = shape.tokens * shape.topk
        tokens = shape.tokens if shape.topk > 1 else 0  # else not known: fewer than rows
        activation = self._activation.predict_ns(rows * 3.0 * inter * _BYTES, self.spec)
        summed = self._aux.predict_ns((rows + tokens) * hidden * _BYTES, self.spec)
        return self._aux.start_ns + activation + summed

    def _compute(self, shape: MoeShape) -> tuple[float, str]:
        kind = shape.kind if shape.kind in self.kinds else ("bf16" if "bf16" in self.kinds else self.kinds[0])
        hidden, inter = (shape.n, shape.k) if shape.stage == "down" else (shape.k, shape.n // 2)
        sizes = float(shape.tokens), float(shape.topk), float(shape.experts), float(hidden), float(inter)
        balanced = balanced_experts(*sizes[:3], SCALARS)
        matrix, roof = features(*sizes, kind, balanced, self.spec, SCALARS)
        total = math.exp(self.booster.predict(matrix)[0]) * (roof + OFFSET_US) * 1e3
        random = max(1.0, active_experts(shape.tokens, shape.topk, shape.experts))
        _, random_roof = features(*sizes, shape.kind, random, self.spec, SCALARS)
        total *= (random_roof + OFFSET_US) / (roof + OFFSET_US)
        small_ns = SMALL_KERNELS * self._aux.start_ns
        if shape.stage != "both" and shape.kind not in _INSIDE:
            small_ns = self._small_kernels_ns(shape, hidden, inter)
        total = max(total - small_ns - (SMALL_KERNELS + 2) * self.booster.gap_ns, random_roof * 1e3)
        share = {"up": 2 / 3, "down": 1 / 3}.get(shape.stage, 1.0)
        flag = confidence(
            self.booster.ranges,
            {
                "tokens": shape.tokens,
                "experts": shape.experts,
                "hidden": hidden,
                "inter": inter,
                "topk": shape.topk,
            },
        )
        return total * share, flag if kind == shape.kind else "outside"
