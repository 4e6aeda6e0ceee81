"""What the harness predicted, kept in the repository (`records/`): docs/accuracy.md is rendered from it.

A record holds what a table needs and what a reader would ask for: who was emulated, how, when it was kept,
at what pace of the machine, and how much of the predicted time lay within what was measured. The run's whole
report stays in the file of `--json`.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import Any

from benchmarks.accuracy.case import Case, CaseError
from benchmarks.accuracy.runner import Outcome, Variant

RECORDS_DIR = Path(__file__).resolve().parent / "records"


def keep(outcomes: Iterable[Outcome], folder: Path = RECORDS_DIR) -> list[Path]:
    """Put outcomes into the files of their series, in place of those of the same case and variant."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    of_series = sorted(outcomes, key=lambda one: one.case.series.id)
    for series, group in groupby(of_series, key=lambda one: one.case.series.id):
        path = folder / f"{series}.json"
        entries = {(one["case"], one["variant"]["name"]): one for one in _entries(path)}
        entries.update({(one.case.id, one.variant.name): _record(one) for one in group})
        path.write_text(json.dumps([entries[key] for key in sorted(entries)], indent=1) + "\n")
        written.append(path)
    return written


def kept(cases: Sequence[Case], folder: Path = RECORDS_DIR) -> list[Outcome]:
    """The outcomes on record of these cases, in their order, beside what their files say was measured."""
    found: list[Outcome] = []
    for series, group in groupby(cases, key=lambda case: case.series.id):
        entries = _entries(folder / f"{series}.json")
        for case in group:
            own = [entry for entry in entries if entry["case"] == case.id]
            found += [Outcome.from_json(case, Variant(**one["variant"]), one) for one in own]
    if not found:
        raise CaseError(f"{folder} has no record of these cases; run them with --keep, or give --json FILE")
    return found


def _record(outcome: Outcome) -> dict[str, Any]:
    block = outcome.block
    about = {name: block[name] for name in ("versions", "confidence_share") if name in block}
    wall = {name: block.get("wall", {}).get(name) for name in ("host_pace", "wall_time_s")}
    return {
        "case": outcome.case.id,
        "variant": dataclasses.asdict(outcome.variant),
        "kept": datetime.now(UTC).date().isoformat(),
        "predicted": {name: float(f"{value:.7g}") for name, value in outcome.predicted.items()},
        "revati": {**about, "wall": wall},
    }


def _entries(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    try:
        entries: list[dict[str, Any]] = json.loads(path.read_text())
        for entry in entries:
            Variant(**entry["variant"])
            entry["case"], entry["predicted"], entry["revati"]
    except (ValueError, KeyError, TypeError):
        raise CaseError(f"{path} holds no records of this program; restore or remove it") from None
    return entries
