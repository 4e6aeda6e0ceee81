"""Ops whose time is the bytes they move: a start-up time, and two rates for what the L2 cache holds and
does not.

    t = start + (1 - f) * bytes / (hbm_efficiency * hbm) + f * bytes / (l2_efficiency * l2)
    f = 1 / (1 + (bytes / (l2_share * l2_size)) ** sharpness)

An efficiency above 1 is possible: writes that end in L2 are not on the clock. The five constants of a
family are fitted to measurements (`revati profile fit`); a GPU without any gets those of a GPU with,
marked "transferred".
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from revati.latency.work import Work
from revati.spec import GpuSpec


@dataclass(frozen=True, slots=True)
class BandwidthModel:
    """Constants of one family; `max_bytes`: largest measured transfer, `error`: held-out MAPE, fraction."""

    start_ns: float
    hbm_efficiency: float
    l2_efficiency: float
    l2_share: float
    sharpness: float
    max_bytes: float = 0.0
    error: float = float("nan")
    source: str = "default"

    def predict_ns(self, work_bytes: float, spec: GpuSpec) -> float:
        """Time of one kernel that moves `work_bytes`, ns."""
        ratio = work_bytes / (self.l2_share * spec.l2_bytes)
        cached = 1.0 / (1.0 + ratio**self.sharpness)
        slow = (1.0 - cached) * work_bytes / (self.hbm_efficiency * spec.hbm_bytes_per_s)
        fast = cached * work_bytes / (self.l2_efficiency * spec.l2_bytes_per_s)
        return self.start_ns + (slow + fast) * 1e9

    def to_json(self) -> dict[str, Any]:
        """As stored in `bandwidth.json`."""
        return asdict(self)


def bandwidth_from_json(raw: dict[str, Any]) -> BandwidthModel:
    """Inverse of `to_json`; raises KeyError or TypeError for a broken entry."""
    return BandwidthModel(**raw)


_BASE = BandwidthModel(2300.0, 0.90, 0.60, 0.5, 2.0)
DEFAULTS: dict[str, BandwidthModel] = {
    "norm": BandwidthModel(2200.0, 1.10, 0.80, 0.4, 1.0),
    "activation": BandwidthModel(2700.0, 1.05, 1.00, 0.6, 2.5),
    "rope": BandwidthModel(2300.0, 1.10, 0.66, 0.5, 3.0),
    "embedding": BandwidthModel(3000.0, 1.00, 1.00, 0.9, 3.0),
    "kv_write": BandwidthModel(2300.0, 0.90, 0.60, 0.5, 2.0),
    "quantize": BandwidthModel(2300.0, 0.90, 0.60, 0.5, 2.0),
    "elementwise": _BASE,
    "reduction": BandwidthModel(4000.0, 0.80, 0.40, 0.5, 2.0),
    "sampling": BandwidthModel(6000.0, 0.40, 0.30, 0.5, 2.0),
    "gather": _BASE,
    "copy_d2d": BandwidthModel(1800.0, 0.90, 0.60, 0.5, 2.0),
    "moe_aux": BandwidthModel(3000.0, 0.80, 0.50, 0.5, 2.0),
    "triton": BandwidthModel(2500.0, 0.80, 0.50, 0.5, 2.0),
    "attention_meta": BandwidthModel(2500.0, 0.80, 0.50, 0.5, 2.0),
}
"""For families that no measurement covers: rounded from those that one does (docs/latency.md)."""

FALLBACK_OF = {
    "kv_write": "rope", "quantize": "norm", "elementwise": "norm", "gather": "embedding", "copy_d2d": "norm",
    "triton": "rope", "moe_aux": "norm",
}  # fmt: skip


def bandwidth_ns(work: Work, model: BandwidthModel, spec: GpuSpec) -> float:
    """Time of `work`, ns; an op of several kernels pays the start-up time for each."""
    return model.predict_ns(work.bytes, spec) + (work.kernels - 1.0) * model.start_ns


PCIE_START_NS = 1400.0
"""DMA set-up of one copy between pinned host memory and the device; an estimate."""


def host_copy_ns(size_bytes: float, spec: GpuSpec) -> float:
    """Time of one copy over PCIe at the achieved rate of the spec, ns."""
    return PCIE_START_NS + size_bytes / spec.pcie_bytes_per_s * 1e9
