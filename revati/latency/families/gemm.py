"""GEMM time: an XGBoost model a kind over tile, wave and roofline features.

Target: log(time / (roofline + 2 us)), so that a shape outside the measured ones falls back to physics
and not to a constant. Features follow what a tiled kernel does: how many tiles of each common size there
are, how full the last wave of them is, and how long the waves take at the peak rate of one SM.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from revati.latency.families.booster import Booster, confidence
from revati.latency.ops.gemm import WEIGHT_BYTES, gemm_work
from revati.latency.roofline import roofline_ns
from revati.latency.work import GemmShape, Work
from revati.spec import GpuSpec

if TYPE_CHECKING:
    from revati.latency.store import Profile

OFFSET_US = 2.0
TILES = ((64, 64), (64, 128), (128, 128), (64, 256), (128, 256), (256, 128))
Array = NDArray[np.float64]


def features(m: Array, n: Array, k: Array, kind: str, spec: GpuSpec) -> tuple[Array, Array]:
    """(feature matrix [rows, features], roofline in us [rows]) of products [m, k] @ [k, n]."""
    weight = WEIGHT_BYTES.get(kind, 2.0)
    activation = 2.0 if kind.endswith("_wo") else (1.0 if kind.startswith("fp8") else weight)
    peak = spec.peak_flops.rate({"fp8_block": "fp8", "int4_wo": "bf16", "int8_wo": "bf16"}.get(kind, kind))
    flops = 2.0 * m * n * k
    size = activation * m * k + weight * n * k + 2.0 * m * n
    t_flops, t_memory = flops / peak * 1e6, size / spec.hbm_bytes_per_s * 1e6
    roof = np.maximum(t_flops, t_memory)
    columns = [np.log2(m), np.log2(n), np.log2(k), np.log2(roof), np.log2(t_flops), np.log2(t_memory)]
    columns.append(np.log2(flops / size))
    sm_rate = peak / spec.sm_count
    fastest = np.full_like(roof, np.inf)
    for rows, cols in TILES:
        for a, b in ((m, n), (n, m)):
            tiles = np.ceil(a / rows) * np.ceil(b / cols)
            waves = np.ceil(tiles / spec.sm_count)
            time_us = waves * (2.0 * rows * cols / sm_rate * 1e6) * k
            fastest = np.minimum(fastest, time_us)
            if a is m:
                columns += [np.log2(time_us / roof), tiles / (waves * spec.sm_count)]
                if (rows, cols) in ((128, 128), (128, 256)):
                    columns += [np.log2(tiles), waves]
    columns += [np.log2(fastest / roof), np.log2(n * k * weight / spec.l2_bytes)]
    columns += [np.log2((m * k * activation + n * k * weight) / spec.l2_bytes)]
    columns += [np.log2(np.ceil(m / 64) * 64 / m), np.ceil(m / 64)]
    columns += [np.log2(np.ceil(n / 128) * np.ceil(m / 128) * k)]
    return np.column_stack(columns), roof


class GemmEstimator:
    """Loaded GEMM models of one profile, by kind."""

    def __init__(self, profile: Profile, models: dict[str, dict[str, Any]]) -> None:
        self.spec = profile.spec
        self.boosters = {entry["kind"]: Booster(profile, entry) for entry in models.values()}
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
        if len(self._cache) < 200_000:
            self._cache[shape] = result
        return result

    def _model(self, m: int, n: int, k: int, kind: str) -> tuple[float, str]:
        booster = self.boosters[kind]
        if min(m, n, k) <= 0:
            return 0.0, "in_range"
        row = [np.array([float(x)]) for x in (m, n, k)]
        matrix, roof = features(row[0], row[1], row[2], kind, self.spec)
        time_us = float(np.exp(booster.predict(matrix)[0]) * (roof[0] + OFFSET_US))
        flag = confidence(booster.ranges, {"m": m, "n": n, "k": k})
        return max(time_us * 1e3, roof[0] * 1e3) - booster.gap_ns, flag
