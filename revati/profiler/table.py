"""The held-out table of all cards as Markdown, for docs/latency.md: `revati profile table`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from revati.spec import list_gpus, profiles_dir

REPORT_FILE = "heldout.json"
COLUMNS = ("GPU", "family", "left out", "rows", "ours %", "top FLOPs %", "AIConfigurator %", "roofline %",
           "goal %")  # fmt: skip
ORDER = ("h100_sxm", "h200_sxm", "rtx4090", "rtx_pro_6000", "b200_sxm", "a100_sxm", "l40s")
_SXM = {
    ("gemm bf16", "unseen (n, k) pairs"): "3.4 (top FLOPs 5.5)",
    ("decode attention", "unseen head pairs"): "1.8",
    ("decode attention", "unseen lengths"): "5.5",
    ("prefill attention", "unseen head pairs"): "3.1",
    ("prefill attention", "unseen lengths"): "5.0",
}


def goal(gpu: str, family: str, split: str) -> str:
    """The figure that this line is to reach, "" where none was set."""
    if gpu in ("h100_sxm", "h200_sxm"):
        if family.startswith("all-reduce"):
            return "6"
        return _SXM.get((family, split), "")
    if gpu in ("rtx4090", "rtx_pro_6000"):
        if family == "mixed attention":
            return "6"
        if family.startswith("layer sum Llama-3.1-8B"):
            return "3"
    return ""


def kept_rows(folder: Path) -> list[dict[str, Any]]:
    """Rows of the report that a profile folder keeps; [] for none."""
    path = folder / REPORT_FILE
    return list(json.loads(path.read_text())["rows"]) if path.is_file() else []


def markdown() -> str:
    """The table, and the cards that have no report."""
    lines = [f"| {' | '.join(COLUMNS)} |", "|" + "---|" * len(COLUMNS)]
    gpus = sorted(list_gpus(), key=lambda gpu: ORDER.index(gpu) if gpu in ORDER else len(ORDER))
    without = []
    for gpu in gpus:
        rows = kept_rows(profiles_dir() / gpu)
        if not rows:
            without.append(gpu)
        for row in rows:
            cells = [gpu, row["family"], row["split"], str(row["rows"])]
            cells += [_percent(row.get(name)) for name in ("ours", "top_flops", "aiconfigurator", "roofline")]
            lines.append(f"| {' | '.join([*cells, goal(gpu, row['family'], row['split'])])} |")
    if without:
        lines += ["", f"Not reported: {', '.join(without)} (`revati profile report <gpu> --write`)."]
    return "\n".join(lines)


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"
