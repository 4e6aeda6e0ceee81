"""Measure ops on the GPU of this machine: warm and cold L2, repeats, percentiles, resumable.

Input: op shapes to time (`profiler.shapes`). Output: rows of `profiler.measure`, appended to a journal after
every op, so that an interrupted run goes on where it stopped.

Timing is behind `Timer`, so that the whole path runs without a GPU in tests.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from revati.profiler.measure import MeasurementError
from revati.profiler.shapes import Shape, key_of

if TYPE_CHECKING:
    import pandas as pd

REPEATS = 20
TRAFFIC = {"norm": (4, 4), "activation": (2, 1), "rope": (2, 2), "embedding": (2, 2), "elementwise": (2, 2)}
"""Bytes read and written for each element of `hidden` and each token."""


class Timer(Protocol):
    """Times one op: seconds of nothing, nanoseconds of everything."""

    gpu_name: str

    def prepare(self, shape: Shape) -> Callable[[], None]:
        """Allocate the op's tensors; the result launches it once. Raises MeasurementError if it cannot."""
        ...

    def graph_ns(self, launch: Callable[[], None], repeats: int, cold: bool) -> list[float]:
        """Per-call times of `launch` inside a replayed graph; `cold`: L2 is flushed before each call."""
        ...

    def host_launch_ns(self, launch: Callable[[], None]) -> float:
        """Host time of one eager launch."""
        ...


@dataclass(frozen=True)
class Progress:
    """How far a collection is; `left_s` is the estimate of the time that remains."""

    done: int
    total: int
    left_s: float
    name: str


def collect(
    shapes: list[Shape],
    timer: Timer,
    journal: Path,
    *,
    engine: str = "",
    repeats: int = REPEATS,
    note: Callable[[Progress], None] = lambda progress: None,
    clock: Callable[[], float] = time.monotonic,
) -> list[dict[str, Any]]:
    """Time every shape that the journal does not have yet; returns all records (one a shape).

    engine: name and version of whose kernels are timed. A shape that the timer cannot run is recorded with
    its error and skipped from then on. Delete the journal to start over. Raises MeasurementError for a
    journal that another card or engine version began: their times do not belong into one table.
    """
    records = _read_journal(journal, {"gpu_name": timer.gpu_name, "engine": engine})
    done = {record["key"] for record in records}
    todo = list({key_of(s): s for s in shapes if key_of(s) not in done}.items())
    start = clock()
    journal.parent.mkdir(parents=True, exist_ok=True)
    with journal.open("a") as handle:
        for index, (key, shape) in enumerate(todo):
            record = {"key": key, "gpu_name": timer.gpu_name, "engine": engine}
            record |= _measure(shape, timer, repeats)
            handle.write(json.dumps(record) + "\n")
            handle.flush()
            records.append(record)
            spent = clock() - start
            left = spent / (index + 1) * (len(todo) - index - 1)
            note(Progress(index + 1, len(todo), left, shape["family"]))
    return records


def _measure(shape: Shape, timer: Timer, repeats: int) -> dict[str, Any]:
    try:
        launch = timer.prepare(shape)
        cold = sorted(timer.graph_ns(launch, repeats, cold=True))
        warm = sorted(timer.graph_ns(launch, repeats, cold=False))
        host = timer.host_launch_ns(launch)
    except MeasurementError as error:
        return {"error": str(error)}
    return {
        "cold_ns": statistics.median(cold), "warm_ns": statistics.median(warm),
        "p10_ns": cold[len(cold) // 10], "p90_ns": cold[(len(cold) * 9) // 10], "host_ns": host,
        "repeats": repeats,
    }  # fmt: skip


def _read_journal(journal: Path, expected: dict[str, str]) -> list[dict[str, Any]]:
    if not journal.exists():
        return []
    records = []
    lines = journal.read_text().splitlines()
    for number, line in enumerate(lines, 1):
        try:
            records.append(json.loads(line))
        except ValueError:
            if number == len(lines):  # the run was killed while it wrote this line
                break
            raise MeasurementError(
                f"{journal}, line {number}: not JSON; delete the file to start over"
            ) from None
    for name, value in expected.items():
        foreign = {str(record.get(name)) for record in records} - {value}
        if foreign:
            raise MeasurementError(
                f"{journal}: begun on {', '.join(sorted(foreign))}, this is {value}; use another folder"
            )
    return records


def to_frame(records: list[dict[str, Any]], gpu: str, engine: str, engine_version: str) -> pd.DataFrame:
    """Records as rows of the measurement schema: one cold row a shape (decode attention included)."""
    import pandas as pd

    rows = []
    for record in records:
        if "error" in record:
            continue
        shape = json.loads(record["key"])
        row = {**shape, "gpu": gpu, "source": "collect", "engine": engine, "engine_version": engine_version,
               "implementation": shape["family"], "timing": "graph", "l2": "cold",
               "latency_ns": float(record["cold_ns"]), "p10_ns": float(record["p10_ns"]),
               "p90_ns": float(record["p90_ns"]), "repeats": int(record["repeats"])}  # fmt: skip
        if shape["family"] == "gemm":
            row["batch"] = 1
        elif shape["family"] == "attention":
            row |= {"kind": "bf16", "head_dim_v": shape["head_dim"], "window": 0}
        else:
            read, write = TRAFFIC[shape["family"]]
            elements = row.pop("hidden") * shape["tokens"]
            row |= {
                "kind": "bf16",
                "read_bytes": float(read * elements),
                "write_bytes": float(write * elements),
            }
        rows.append(row)
    if not rows:
        raise MeasurementError("nothing was measured; every shape failed (see the journal)")
    return pd.DataFrame(rows)


def left_text(progress: Progress) -> str:
    """`12/345, 3 min left`."""
    minutes = progress.left_s / 60
    left = f"{minutes:.0f} min" if minutes >= 1 else f"{progress.left_s:.0f} s"
    return f"{progress.done}/{progress.total}, {left} left"
