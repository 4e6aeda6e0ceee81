"""What the harness predicted, kept in the repository (`records/`): docs/accuracy.md is rendered from it.

A record holds what a table needs and what a reader would ask for: who was emulated, how, when it was kept,
at what pace of the machine, and how much of the predicted time lay within what was measured. The run's whole
report stays in the file of `--json`.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from itertools import groupby
from pathlib import Path
from typing import Any

from benchmarks.accuracy.case import Case, CaseError
from benchmarks.accuracy.runner import Outcome, Variant

RECORDS_DIR = Path(__file__).resolve().parent / "records"
Entries = dict[tuple[str, str], dict[str, Any]]
"""What a result file or a record holds of each case and variant (their names)."""


def keep(outcomes: Iterable[Outcome], folder: Path = RECORDS_DIR) -> list[Path]:
    """Put outcomes into the files of their series, in place of those of the same case and variant."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    of_series = sorted(outcomes, key=lambda one: one.case.series.id)
    for series, group in groupby(of_series, key=lambda one: one.case.series.id):
        path = folder / f"{series}.json"
        entries = read(path)
        entries.update({(one.case.id, one.variant.name): _record(one) for one in group})
        path.write_text(json.dumps([entries[key] for key in sorted(entries)], indent=1) + "\n")
        written.append(path)
    return written


def kept(cases: Sequence[Case], folder: Path = RECORDS_DIR) -> list[Outcome]:
    """The outcomes on record of these cases, in their order, beside what their files say was measured."""
    entries: Entries = {}
    for series in {case.series.id for case in cases}:
        entries |= read(folder / f"{series}.json")
    found = of_cases(entries, cases)
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
        "kept": date.today().isoformat(),
        "predicted": {name: float(f"{value:.7g}") for name, value in outcome.predicted.items()},
        "revati": {**about, "wall": wall},
    }


def of_cases(entries: Mapping[tuple[str, str], dict[str, Any]], cases: Sequence[Case]) -> list[Outcome]:
    """What is known of these cases, in their order, beside what their files say was measured."""
    return [
        Outcome.from_json(case, Variant(**entry["variant"]), entry)
        for case in cases
        for (name, _), entry in sorted(entries.items())
        if name == case.id
    ]


def read(path: Path) -> Entries:
    """A result file (`--json`) or a record; empty if there is no such file."""
    if not path.exists():
        return {}
    try:
        entries = {(entry["case"], entry["variant"]["name"]): entry for entry in json.loads(path.read_text())}
        for entry in entries.values():
            Variant(**entry["variant"])
            entry["predicted"], entry["revati"]
    except (ValueError, KeyError, TypeError):
        raise CaseError(f"{path} holds no results of this program as it is now; give another file") from None
    return entries
