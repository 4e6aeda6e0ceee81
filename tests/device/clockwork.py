"""Streams, events and kernels of known length for tests of the timeline, and what each costs the host."""

from __future__ import annotations

import torch

from revati import _C
from revati.spec import load_spec

SPEC = load_spec("h100_sxm")
LAUNCH = int(SPEC.kernel_launch_ns)
GRAPH_LAUNCH = int(SPEC.graph_launch_ns)
GAP = int(SPEC.graph_kernel_gap_ns)
MS = 1_000_000


def new_stream(device: int = 0) -> torch.Stream:
    return torch.Stream(torch.device("revati", device))


def new_event() -> torch.Event:
    return torch.Event(torch.device("revati"), enable_timing=True)


def busy(stream: torch.Stream, ns: int) -> None:
    """A kernel of `ns` on `stream`."""
    with torch.revati.stream(stream):  # type: ignore[attr-defined]
        _C.occupy(ns, stream.device_index)


def settled() -> int:
    """The present, with nothing left to wait for on either device."""
    for device in range(2):
        torch.revati.synchronize(device)  # type: ignore[attr-defined]
    return int(_C.now_ns())
