"""Collectives: log-log interpolation over payload, a table for each implementation, op and number of ranks.

A run's all-reduce is priced as the implementation that the engine would pick on real cards: vLLM's
custom kernel over NVLink up to its size limit, then symmetric memory where the spec has it, else NCCL.
"""

from __future__ import annotations

import bisect
import json
import math
from typing import TYPE_CHECKING, Any

from revati.latency.ops.comm import CUSTOM_ALLREDUCE, NCCL, SYMM_MEM
from revati.latency.work import CollectiveShape, Work

if TYPE_CHECKING:
    from revati.latency.store import Profile

MIB = 2**20
CUSTOM_LIMIT_BYTES: dict[str, dict[int, int]] = {
    "9.0": {2: 8 * MIB, 4: 8 * MIB, 6: MIB // 2, 8: MIB // 4},
    "10.0": {2: 2 * MIB, 4: 2 * MIB, 6: MIB, 8: MIB},
    "": {2: 8 * MIB, 4: 8 * MIB, 6: 8 * MIB, 8: 8 * MIB},
}
"""vLLM 0.32: CUSTOM_ALL_REDUCE_MAX_SIZES, at most CustomAllreduce's 8 MiB, by compute capability."""
SAME_TRAFFIC = {"broadcast": "allgather", "reduce": "reduce_scatter", "gather": "allgather",
                "scatter": "allgather",
                "send": "allgather", "recv": "allgather"}  # fmt: skip
Curve = tuple[list[float], list[float]]


def interpolate(curve: Curve, payload: float) -> tuple[float, str]:
    """(ns, confidence) at `payload` bytes: lines in log-log, the last slope kept beyond the table."""
    xs, ys = curve
    x = math.log(max(payload, 1.0))
    if x <= xs[0]:
        return math.exp(ys[0]), "in_range" if x > xs[0] - math.log(4096) else "edge"
    i = min(bisect.bisect_left(xs, x), len(xs) - 1)
    slope = (ys[i] - ys[i - 1]) / (xs[i] - xs[i - 1])
    flag = "in_range" if x <= xs[-1] else ("edge" if x <= xs[-1] + math.log(2) else "outside")
    return math.exp(ys[i - 1] + slope * (x - xs[i - 1])), flag


class CollectiveEstimator:
    """Loaded tables of one profile: {implementation: {op: {ranks: curve}}}."""

    def __init__(self, profile: Profile, models: dict[str, dict[str, Any]]) -> None:
        from revati.latency.store import ProfileError

        self.spec = profile.spec
        entry = next(iter(models.values()))
        path = profile.model_path(entry["file"])
        if path is None:
            raise ProfileError(f"{profile.folder}: model {entry['file']} is listed but not shipped")
        raw = json.loads(path.read_text())
        self.tables: dict[str, dict[str, dict[int, Curve]]] = {
            implementation: {
                op: {
                    int(ranks): ([math.log(b) for b in rows["bytes"]], [math.log(t) for t in rows["ns"]])
                    for ranks, rows in by_ranks.items()
                }
                for op, by_ranks in ops.items()
            }
            for implementation, ops in raw.items()
        }
        self.gap_ns = profile.spec.graph_kernel_gap_ns if entry["timing"] == "graph" else 0.0

    def estimate(self, work: Work) -> tuple[float, str] | None:
        """(ns, confidence); one rank alone, and a barrier, cost a kernel."""
        shape = work.shape
        assert isinstance(shape, CollectiveShape)
        if shape.world_size <= 1:
            return 0.0, "in_range"
        op = "allreduce" if shape.op == "barrier" else shape.op
        over = self.spec.symm_mem_all_reduce.get(shape.world_size)
        if shape.implementation == SYMM_MEM and op == "allreduce" and over is not None:
            return over.base_ns + shape.payload_bytes / over.bytes_per_s * 1e9, "edge"
        curve, exact = self._curve(shape, op)
        if curve is None:
            return None
        ns, flag = interpolate(curve, shape.payload_bytes)
        return max(0.0, ns - self.gap_ns), flag if exact else "outside"

    def _curve(self, shape: CollectiveShape, op: str) -> tuple[Curve | None, bool]:
        major, minor = self.spec.compute_capability
        limits = CUSTOM_LIMIT_BYTES.get(f"{major}.{minor}", CUSTOM_LIMIT_BYTES[""])
        custom = shape.implementation == CUSTOM_ALLREDUCE or (
            self.spec.nvlink_bytes_per_s > 0 and 0 < shape.payload_bytes < limits.get(shape.world_size, 0)
        )
        for implementation in (CUSTOM_ALLREDUCE, NCCL) if custom else (NCCL,):
            by_ranks = self.tables.get(implementation, {}).get(op) or self.tables.get(implementation, {}).get(
                SAME_TRAFFIC.get(op, op)
            )
            if not by_ranks:
                continue
            ranks = min(by_ranks, key=lambda r: (abs(math.log(r / shape.world_size)), -r))
            return by_ranks[ranks], ranks == shape.world_size
        return None, False
