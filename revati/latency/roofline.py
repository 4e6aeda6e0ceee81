"""The roofline: no op is faster than its operations at the peak rate, or its bytes at the memory's."""

from __future__ import annotations

from revati.latency.work import Work
from revati.spec import GpuSpec

KERNEL_FLOOR_NS = 1500.0
"""Shortest kernel seen on a measured card (1.85 us: a norm over one token, RTX 4090), rounded down."""

_FLOP_KIND = {"fp8_block": "fp8", "int4_wo": "bf16", "int8_wo": "bf16", "fp8_wo": "bf16", "float16": "fp16",
              "mxfp4": "fp8", "mxfp4_wo": "bf16"}  # fmt: skip


def roofline_ns(work: Work, spec: GpuSpec) -> float:
    """Lower bound of the op's time on the device, ns; collectives are bounded by their link."""
    if work.family == "collective":
        link = spec.nvlink_bytes_per_s or spec.pcie_bytes_per_s
        return work.bytes / link * 1e9
    if work.family in ("copy_h2d", "copy_d2h"):
        return work.read_bytes / spec.pcie_bytes_per_s * 1e9
    memory = work.bytes / spec.hbm_bytes_per_s
    compute = work.flops / spec.peak_flops.rate(_FLOP_KIND.get(work.flop_kind, work.flop_kind))
    return max(memory, compute) * 1e9


def roofline_estimate_ns(work: Work, spec: GpuSpec) -> float:
    """`roofline_ns` with the floor that every launched kernel has."""
    return max(roofline_ns(work, spec), KERNEL_FLOOR_NS * work.kernels)
