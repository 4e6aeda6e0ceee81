"""Joins the traces of all processes of a run into one Perfetto file, with lanes for requests of a benchmark.

Times are virtual microseconds; devices, streams and requests share one time axis.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_REQUESTS_PID = 1_000_000  # far from the numbers that devices have


def merge_traces(run_dir: Path, target: Path, extra: list[dict[str, Any]] | None = None) -> int:
    """Write all `trace-<pid>.json` of a run and `extra` events to `target`; returns the number of events."""
    count = 0
    with target.open("w", encoding="utf-8") as file:
        file.write('{"displayTimeUnit": "ms", "traceEvents": [')
        for event in _events(run_dir, extra or []):
            file.write(("," if count else "") + "\n" + json.dumps(event))
            count += 1
        file.write("\n]}\n")
    return count


def _events(run_dir: Path, extra: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for path in sorted(run_dir.glob("trace-*.json")):
        try:
            yield from json.loads(path.read_text())["traceEvents"]
        except (OSError, ValueError, KeyError):
            continue  # cut short: its process was killed
    yield from extra


def request_lanes(client: dict[str, Any]) -> list[dict[str, Any]]:
    """Two slices a request, from `vllm bench serve`'s detailed result: until the first token, then the rest.

    Requests that do not overlap share a lane, so there are as many lanes as requests in flight at once.
    """
    starts, ttfts, itls = (client.get(key) or [] for key in ("start_times", "ttfts", "itls"))
    if not starts or len(starts) != len(ttfts):
        return []
    events: list[dict[str, Any]] = [
        {"ph": "M", "name": "process_name", "pid": _REQUESTS_PID, "args": {"name": "requests"}}
    ]
    inputs, outputs = client.get("input_lens") or [], client.get("output_lens") or []
    free_at_s: list[float] = []
    for number in sorted(range(len(starts)), key=starts.__getitem__):
        start_s, ttft_s = starts[number], ttfts[number]
        decode_s = sum(itls[number]) if number < len(itls) else 0.0
        lane = next((at for at, end_s in enumerate(free_at_s) if end_s <= start_s), len(free_at_s))
        free_at_s[lane : lane + 1] = [start_s + ttft_s + decode_s]
        sizes = {
            "request": number,
            "input_tokens": inputs[number] if number < len(inputs) else None,
            "output_tokens": outputs[number] if number < len(outputs) else None,
        }
        events.append(_slice("to first token", lane, start_s, ttft_s, sizes))
        events.append(_slice("decode", lane, start_s + ttft_s, decode_s, sizes))
    return events


def _slice(name: str, lane: int, start_s: float, length_s: float, details: dict[str, Any]) -> dict[str, Any]:
    return {
        "ph": "X",
        "cat": "request",
        "name": name,
        "pid": _REQUESTS_PID,
        "tid": lane,
        "ts": start_s * 1e6,
        "dur": length_s * 1e6,
        "args": details,
    }
