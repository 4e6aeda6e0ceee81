"""Fit the constants of each bandwidth family; hand them on, marked, to cards without measurements."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from revati.latency.bandwidth import DEFAULTS, BandwidthModel
from revati.spec import GpuSpec, load_spec

if TYPE_CHECKING:
    import pandas as pd

FAMILIES = ("norm", "activation", "rope", "embedding", "quantize")
SAME_SHAPE_OF_WORK = {
    "elementwise": "rope", "copy_d2d": "rope", "kv_write": "rope", "gather": "embedding", "triton": "rope",
    "moe_aux": "rope", "attention_meta": "rope", "quantize": "rope",
}  # fmt: skip
TRANSFER_HBM_EFFICIENCY = 0.90
"""static_scaled_fp8_quant moves 403 MB at 3.03 of 3.35 TB/s on an H100 (aiconfigurator-core)."""
TRANSFER_L2_EFFICIENCY = 1.0
START_BOUNDS_NS = (800.0, 60_000.0)
Array = NDArray[np.float64]


def _hardware(rows: pd.DataFrame) -> tuple[Array, Array, Array]:
    specs = {gpu: load_spec(str(gpu)) for gpu in rows["gpu"].unique()}
    columns = [
        np.array([getattr(specs[g], field) for g in rows["gpu"]], dtype=float)
        for field in ("hbm_bytes_per_s", "l2_bytes", "l2_bytes_per_s")
    ]
    return columns[0], columns[1], columns[2]


def _predict(x: Array, size: Array, hbm: Array, l2: Array, l2_rate: Array) -> Array:
    start, slow, fast, share, sharpness = np.exp(x)
    cached = 1.0 / (1.0 + (size / (share * l2)) ** sharpness)
    out: Array = start + ((1 - cached) * size / (slow * hbm) + cached * size / (fast * l2_rate)) * 1e9
    return out


def kernel_ns(rows: pd.DataFrame) -> Array:
    """Measured time without the gap to the next kernel."""
    gaps = {gpu: load_spec(str(gpu)).graph_kernel_gap_ns for gpu in rows["gpu"].unique()}
    gap = np.where(rows["timing"] == "graph", rows["gpu"].map(gaps), 0.0)
    out: Array = np.maximum(rows["latency_ns"].to_numpy() - gap, 300.0)
    return out


def fit_family(rows: pd.DataFrame, source: str) -> BandwidthModel:
    """Least squares on log time over `rows` (one family, one or more cards).

    Constants keep four digits: linear algebra differs in the ninth from one CPU to another, and a profile is
    to be the same file on all of them.
    """
    from scipy.optimize import least_squares

    size = (rows["read_bytes"] + rows["write_bytes"]).to_numpy(dtype=float)
    time_ns = kernel_ns(rows)
    hardware = _hardware(rows)
    low = np.log([START_BOUNDS_NS[0], 0.3, 0.05, 0.08, 0.6])
    high = np.log([START_BOUNDS_NS[1], 1.85, 2.0, 4.5, 8.0])
    best = None
    for share in (0.2, 0.6):
        for sharpness in (1.0, 3.0):
            first = np.log([np.median(time_ns[size <= np.quantile(size, 0.2)]), 0.8, 0.5, share, sharpness])
            result = least_squares(
                lambda x: np.log(_predict(x, size, *hardware) / time_ns),
                np.clip(first, low + 1e-6, high - 1e-6),
                bounds=(low, high),
                loss="soft_l1",
                f_scale=0.1,
                xtol=1e-12,
                ftol=1e-12,
                gtol=1e-12,
            )
            if best is None or result.cost < best.cost:
                best = result
    assert best is not None
    error = float(np.mean(np.abs(_predict(best.x, size, *hardware) / time_ns - 1)))
    start, slow, fast, share, sharpness = (float(f"{v:.4g}") for v in np.exp(best.x))
    return BandwidthModel(
        start, slow, fast, share, sharpness, max_bytes=float(size.max()), error=round(error, 4), source=source
    )


def fit_all(own: pd.DataFrame, donors: pd.DataFrame, spec: GpuSpec) -> dict[str, BandwidthModel]:
    """Models of every bandwidth family for the card of `spec`; `donors`: rows of other cards."""
    models: dict[str, BandwidthModel] = {}
    for family in FAMILIES:
        rows = own[own["family"] == family]
        if len(rows) >= 30:
            models[family] = fit_family(rows, f"measured on {spec.id}")
            continue
        rows = donors[donors["family"] == family]
        if len(rows) >= 30:
            cards = "+".join(sorted(rows["gpu"].unique()))
            fitted = fit_family(rows, f"transferred from {cards}")
            models[family] = replace(
                fitted,
                hbm_efficiency=min(fitted.hbm_efficiency, TRANSFER_HBM_EFFICIENCY),
                l2_efficiency=min(fitted.l2_efficiency, TRANSFER_L2_EFFICIENCY),
            )
    for family, like in SAME_SHAPE_OF_WORK.items():
        if family not in models and like in models:
            base = models[like]
            models[family] = replace(base, source=f"transferred from family {like} ({base.source})")
    for family in ("reduction", "sampling"):
        like_model = models.get("rope", DEFAULTS["elementwise"])
        models[family] = replace(
            DEFAULTS[family], max_bytes=like_model.max_bytes, source="transferred: default constants"
        )
    return models
