"""Merges what each process of a run predicted (`$REVATI_RUN_DIR/ops-<pid>.json`) into one picture.

Every figure is virtual GPU time. Replicated ranks each report their own share, so totals are GPU-seconds
over all ranks, not elapsed time.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

CONFIDENCES = ("in_range", "edge", "outside", "roofline")


class OpTotal(BaseModel):
    """One operator with one confidence, summed over a process or a run."""

    model_config = ConfigDict(extra="ignore")

    name: str
    family: str = "unknown"
    confidence: str = "roofline"
    count: int = 0
    total_ns: float = 0.0


class ProcessReport(BaseModel):
    """What one process with a virtual GPU left behind when it ended."""

    model_config = ConfigDict(extra="ignore")

    pid: int
    process: str = ""
    rank: int | None = None
    gpu: str = ""
    device_busy_ns: float = 0.0
    ops: list[OpTotal] = []


class FamilyTotal(BaseModel):
    """Predicted time of one operator family over the whole run."""

    family: str
    count: int
    total_ns: float
    share: float


class OpsSummary(BaseModel):
    """The merged prediction of a run."""

    processes: int
    ranks: list[int]
    device_busy_ns: dict[str, float]
    families: list[FamilyTotal]
    confidence_share: dict[str, float]
    top_ops: list[OpTotal]
    roofline_ops: list[OpTotal]
    unreadable: list[str]


def read_process_reports(run_dir: Path) -> tuple[list[ProcessReport], list[str]]:
    """Read all per-process reports; returns them and the names of damaged files (killed processes)."""
    reports: list[ProcessReport] = []
    damaged: list[str] = []
    for path in sorted(run_dir.glob("ops-*.json")):
        try:
            reports.append(ProcessReport.model_validate_json(path.read_bytes()))
        except (ValueError, OSError):
            damaged.append(path.name)
    return reports, damaged


def merge_reports(reports: Iterable[ProcessReport], damaged: Iterable[str] = ()) -> OpsSummary:
    """Sum the reports by operator, family and confidence, largest first."""
    reports = list(reports)
    by_op: dict[tuple[str, str, str], OpTotal] = {}
    for report in reports:
        for op in report.ops:
            key = (op.name, op.family, op.confidence)
            total = by_op.setdefault(key, OpTotal(name=op.name, family=op.family, confidence=op.confidence))
            total.count += op.count
            total.total_ns += op.total_ns
    ops = sorted(by_op.values(), key=lambda op: (-op.total_ns, op.name, op.confidence))
    whole_ns = sum(op.total_ns for op in ops)
    return OpsSummary(
        processes=len(reports),
        ranks=sorted({report.rank for report in reports if report.rank is not None}),
        device_busy_ns=_busy_by_rank(reports),
        families=_family_totals(ops, whole_ns),
        confidence_share=_confidence_share(ops, whole_ns),
        top_ops=ops[:30],
        roofline_ops=[op for op in ops if op.confidence == "roofline"][:30],
        unreadable=sorted(damaged),
    )


def summarize_run_dir(run_dir: Path) -> OpsSummary:
    """Read and merge the reports of a finished run."""
    return merge_reports(*read_process_reports(run_dir))


def _busy_by_rank(reports: list[ProcessReport]) -> dict[str, float]:
    busy: dict[str, float] = {}
    for report in reports:
        program, *rest = (report.process or str(report.pid)).split(" ")
        label = " ".join([program.rpartition("/")[2], *rest])
        if report.rank is not None and report.process:
            label = f"{report.process}/{report.rank}"
        busy[label] = busy.get(label, 0.0) + report.device_busy_ns
    return dict(sorted(busy.items()))


def _family_totals(ops: list[OpTotal], whole_ns: float) -> list[FamilyTotal]:
    totals: dict[str, list[float]] = {}
    for op in ops:
        entry = totals.setdefault(op.family, [0, 0.0])
        entry[0] += op.count
        entry[1] += op.total_ns
    rows = [
        FamilyTotal(family=family, count=int(count), total_ns=ns, share=ns / whole_ns if whole_ns else 0.0)
        for family, (count, ns) in totals.items()
    ]
    return sorted(rows, key=lambda row: (-row.total_ns, row.family))


def _confidence_share(ops: list[OpTotal], whole_ns: float) -> dict[str, float]:
    share = dict.fromkeys(CONFIDENCES, 0.0)
    for op in ops:
        share[op.confidence] = share.get(op.confidence, 0.0) + op.total_ns
    return {name: (ns / whole_ns if whole_ns else 0.0) for name, ns in share.items()}


def load_json(path: Path) -> dict[str, Any]:
    """Read a JSON object, or an empty one where the file is missing or damaged."""
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
