"""Kernels that a compiler made of several operators: `inductor::*` records say their family and their
traffic.
"""

from __future__ import annotations

from revati.latency.record import ArgView
from revati.latency.work import Work


def extract_fused(view: ArgView) -> Work:
    """One kernel with the traffic over its border; arguments: family, read_bytes, write_bytes."""
    return Work(
        family=str(view.get("family", default="elementwise")),
        read_bytes=float(view.get("read_bytes", default=0)),
        write_bytes=float(view.get("write_bytes", default=0)),
    )
