"""GEMM time: an XGBoost model a kind over tile, wave and roofline features.

Target: log(time / (roofline + 2 us)), so that a shape outside the measured ones falls back to physics
and not to a constant. Features follow what a tiled kernel does: how many tiles of each common size there
are, how full the last wave of them is, and how long the waves take at the peak rate of one SM.

Tables that hold only the two ends of each step of 256 rows (..., 512, 513, 768, 769, ...) say nothing about
the rows between, where trees would jump: there the time is a straight line from one end to the other. It
need not rise: a Hopper FP8 kernel takes 1.5 to 2 times as long for 513 rows as for 512, and 768 cost less
than 513. docs/latency.md has the check at rows that were measured inside a step.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from revati.latency.families.booster import Booster, confidence
from revati.latency.families.vectors import ARRAYS, SCALARS, Xp
from revati.latency.ops.gemm import WEIGHT_BYTES, gemm_work
from revati.latency.roofline import roofline_ns
from revati.latency.work import GemmShape, Work
from revati.spec import GpuSpec

if TYPE_CHECKING:
    from revati.latency.store import Profile

OFFSET_US = 2.0
STEP_ROWS = 256
TILES = ((64, 64), (64, 128), (128, 128), (64, 256), (128, 256), (256, 128))
_PEAK = {"fp8_block": "fp8", "int4_wo": "bf16", "int8_wo": "bf16"}
Number = Any
"""A float, or a numpy array of float64."""


def features(
    m: Number, n: Number, k: Number, kind: str, spec: GpuSpec, xp: Xp = ARRAYS
) -> tuple[Number, Number]:  # fmt: skip
    """(feature matrix [rows, features], roofline in us [rows]) of products [m, k] @ [k, n]."""
    log2, ceil, sm = xp.log2, xp.ceil, spec.sm_count
    weight = WEIGHT_BYTES.get(kind, 2.0)
    activation = 2.0 if kind.endswith("_wo") else (1.0 if kind.startswith("fp8") else weight)
    peak = spec.peak_flops.rate(_PEAK.get(kind, kind))
    flops = 2.0 * m * n * k
    size = activation * m * k + weight * n * k + 2.0 * m * n
    t_flops, t_memory = flops / peak * 1e6, size / spec.hbm_bytes_per_s * 1e6
    roof = xp.maximum(t_flops, t_memory)
    columns = [log2(m), log2(n), log2(k), log2(roof), log2(t_flops), log2(t_memory), log2(flops / size)]
    sm_rate = peak / sm
    fastest = 1e30 * roof
    for rows, cols in TILES:
        tile_us = 2.0 * rows * cols / sm_rate * 1e6
        tiles = ceil(m / rows) * ceil(n / cols)
        waves = ceil(tiles / sm)
        time_us = waves * tile_us * k
        turned = ceil(ceil(n / rows) * ceil(m / cols) / sm) * tile_us * k
        fastest = xp.minimum(fastest, xp.minimum(time_us, turned))
        columns += [log2(time_us / roof), tiles / (waves * sm)]
        if (rows, cols) in ((128, 128), (128, 256)):
            columns += [log2(tiles), waves]
    columns += [log2(fastest / roof), log2(n * k * weight / spec.l2_bytes)]
    columns += [log2((m * k * activation + n * k * weight) / spec.l2_bytes)]
    columns += [log2(ceil(m / 64) * 64 / m), ceil(m / 64)]
    columns += [log2(ceil(n / 128) * ceil(m / 128) * k)]
    return xp.matrix(columns), roof


def memory_bound(m: Number, n: Number, k: Number, kind: str, spec: GpuSpec) -> Any:
    """Whether reading [k, n] takes more than twice as long as multiplying, at the card's peak rates."""
    weight = WEIGHT_BYTES.get(kind, 2.0)
    t_memory = weight * n * k / spec.hbm_bytes_per_s
    return t_memory > 2.0 * (2.0 * m * n * k / spec.peak_flops.rate(_PEAK.get(kind, kind)))


def step_ends(m: int, measured: frozenset[int]) -> tuple[int, int]:
    """Rows between which the time of `m` rows is a line: (m, m) where the model is to be asked for m itself.

    measured: all row counts of the table. The ends of a step are 256 j + 1 and 256 (j + 1).
    """
    lower = STEP_ROWS * ((m - 1) // STEP_ROWS) + 1
    upper = lower + STEP_ROWS - 1
    inside = any(lower < rows < upper for rows in measured)
    if m <= STEP_ROWS or m in (lower, upper) or inside or STEP_ROWS * 2 + 1 not in measured:
        return m, m
    return lower, upper


class GemmEstimator:
    """Loaded GEMM models of one profile, by kind."""

    def __init__(self, profile: Profile, models: dict[str, dict[str, Any]]) -> None:
        self.spec = profile.spec
        self.boosters = {entry["kind"]: Booster(profile, entry) for entry in models.values()}
        grids = {entry["kind"]: entry.get("grid", {}) for entry in models.values()}
        self.rows = {kind: frozenset(int(m) for m in grid.get("m", ())) for kind, grid in grids.items()}
        self._cache: dict[GemmShape, tuple[float, str]] = {}

    def estimate(self, work: Work) -> tuple[float, str] | None:
        """(ns, confidence). A kind without a model scales the nearest kind's time by the two rooflines."""
        shape = work.shape
        assert isinstance(shape, GemmShape)
        hit = self._cache.get(shape)
        if hit is not None:
            return hit
        kind = {"fp16": "bf16"}.get(shape.kind, shape.kind)
        if kind in self.boosters and shape.batch == 1:
            result = self._model(shape.m, shape.n, shape.k, kind)
        else:
            order = (kind, "fp8", "bf16") if kind in ("fp8_block", "int8", "fp4") else (kind, "bf16")
            nearest = next((k for k in order if k in self.boosters), None)
            if nearest is None:
                return None
            rows = shape.m * shape.batch
            base, _ = self._model(rows, shape.n, shape.k, nearest)
            plain = roofline_ns(gemm_work(rows, shape.n, shape.k, nearest), self.spec)
            ratio = (roofline_ns(work, self.spec) + OFFSET_US * 1e3) / (plain + OFFSET_US * 1e3)
            result = base * ratio, "edge" if kind == "fp8_block" and shape.batch == 1 else "outside"
        if not shape.known:
            result = result[0], "outside"
        if len(self._cache) < 200_000:
            self._cache[shape] = result
        return result

    def _model(self, m: int, n: int, k: int, kind: str) -> tuple[float, str]:
        booster = self.boosters[kind]
        if min(m, n, k) <= 0:
            return 0.0, "in_range"
        lower, upper = step_ends(m, self.rows[kind])
        ns = self._direct(lower, n, k, kind, booster)
        if upper != lower:
            share = (m - lower) / (upper - lower)
            ns += share * (self._direct(upper, n, k, kind, booster) - ns)
        return ns - booster.gap_ns, confidence(booster.ranges, {"m": m, "n": n, "k": k})

    def _direct(self, m: int, n: int, k: int, kind: str, booster: Booster) -> float:
        matrix, roof = features(float(m), float(n), float(k), kind, self.spec, SCALARS)
        return max(math.exp(booster.predict(matrix)[0]) * (roof + OFFSET_US), roof) * 1e3
