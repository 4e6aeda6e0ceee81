"""Writes down what a run launched: one JSON line for each distinct op, as shapes and not as times.

`$REVATI_WORK_LOG` names the folder; every process with a predictor appends to its own file there.
`revati profile collect` runs an engine on the virtual device this way to learn what it has to measure.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from revati.latency.record import ArgView, OpRecord, TensorArg
from revati.latency.work import AttentionShape, Work

ENV = "REVATI_WORK_LOG"
_ROWS_OF = {"norm": ("input", "x"), "activation": ("input",), "rope": ("query", "key"), "embedding": ()}
"""Arguments whose rows such an op walks; () means its output."""


class WorkLog:
    """Appends rows to `<folder>/work-<pid>.jsonl`; a row that is already there is not written again."""

    def __init__(self, folder: Path) -> None:
        self._handle = (folder / f"work-{os.getpid()}.jsonl").open("a")
        self._seen: set[str] = set()

    def note(self, record: OpRecord, work: Work) -> None:
        """Add what `record` launches; ops that launch nothing are left out."""
        if work.kernels <= 0 and work.shape is None:
            return
        row: dict[str, Any] = {"name": record.name, "family": work.family}
        if work.shape is not None:
            row["shape"] = asdict(work.shape)
            if isinstance(work.shape, AttentionShape):
                del row["shape"]["seqs"]
        elif work.family in _ROWS_OF:
            row |= _rows(record, _ROWS_OF[work.family])
        line = json.dumps(row, sort_keys=True)
        if line not in self._seen:
            self._seen.add(line)
            self._handle.write(line + "\n")
            self._handle.flush()


def _rows(record: OpRecord, names: tuple[str, ...]) -> dict[str, int]:
    """tokens: rows of the first of these tensors; hidden: elements of one row of all of them."""
    view = ArgView(record)
    tensors = [t for t in (view.tensor(name) for name in names) if t is not None]
    if not names:
        tensors = [*record.outputs[:1], *(t for t in record.args if isinstance(t, TensorArg))][:1]
    tensors = [t for t in tensors if t.shape]
    if not tensors:
        return {}
    width = 0
    for tensor in tensors:
        row = 1
        for size in tensor.shape[1:]:
            row *= size
        width += row
    return {"tokens": tensors[0].shape[0], "hidden": width}


def from_environment() -> WorkLog | None:
    """The log that `$REVATI_WORK_LOG` asks for, None without it."""
    folder = os.environ.get(ENV)
    return WorkLog(Path(folder)) if folder else None
