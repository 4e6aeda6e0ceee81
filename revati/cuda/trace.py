"""Chrome/Perfetto traces of the virtual GPUs: one process a device, one track a stream, times in us."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def rows_to_events(
    rows: list[tuple[int, int, int, int, str, str, str]], rank: int | None = None
) -> list[dict[str, Any]]:
    """Events of `rows` (device, stream, start_ns, duration_ns, op, family, shapes), with track names."""
    events: list[dict[str, Any]] = []
    tracks: set[tuple[int, int]] = set()
    for device, stream, start_ns, duration_ns, name, family, shapes in rows:
        pid = (rank or 0) * 100 + device
        if (device, stream) not in tracks:
            tracks.add((device, stream))
            label = f"GPU {device}" if rank is None else f"rank {rank} GPU {device}"
            events.append({"ph": "M", "name": "process_name", "pid": pid, "args": {"name": label}})
            events.append(
                {
                    "ph": "M",
                    "name": "thread_name",
                    "pid": pid,
                    "tid": stream,
                    "args": {"name": f"stream {stream}"},
                }
            )
        events.append(
            {
                "ph": "X",
                "cat": family,
                "name": name,
                "pid": pid,
                "tid": stream,
                "ts": start_ns / 1e3,
                "dur": duration_ns / 1e3,
                "args": {"shapes": shapes},
            }
        )
    return events


def write_rows(path: Path, rank: int | None) -> None:
    """Write what this process has traced so far to `path` as a Chrome trace."""
    from revati import _C

    rows = _C.take_trace()
    if rows:
        path.write_text(json.dumps({"traceEvents": rows_to_events(rows, rank), "displayTimeUnit": "ms"}))


@contextlib.contextmanager
def trace(path: str | Path) -> Iterator[None]:
    """Trace the virtual GPUs of this process while inside, and write Chrome/Perfetto JSON to `path`."""
    from revati import _C

    _C.take_trace()
    _C.trace(True)
    try:
        yield
    finally:
        _C.trace(False)
        Path(path).write_text(
            json.dumps({"traceEvents": rows_to_events(_C.take_trace()), "displayTimeUnit": "ms"})
        )
