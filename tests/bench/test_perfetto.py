"""One trace file from those of all processes, with request lanes."""

from __future__ import annotations

import json
from pathlib import Path

from revati.report.perfetto import merge_traces, request_lanes

CLIENT = {
    "start_times": [0.0, 0.5, 2.0],
    "ttfts": [0.1, 0.2, 0.1],
    "itls": [[0.4, 0.5], [0.1], []],
    "input_lens": [10, 20, 30],
    "output_lens": [3, 2, 1],
}


def test_overlapping_requests_get_lanes_of_their_own() -> None:
    slices = [event for event in request_lanes(CLIENT) if event["ph"] == "X"]
    lanes = {event["args"]["request"]: event["tid"] for event in slices}
    assert lanes == {0: 0, 1: 1, 2: 0}
    first = slices[0]
    assert (first["name"], first["ts"], first["dur"]) == ("to first token", 0.0, 1e5)
    assert request_lanes({}) == []


def test_all_processes_are_joined_and_damaged_files_skipped(tmp_path: Path) -> None:
    for pid in (1, 2):
        (tmp_path / f"trace-{pid}.json").write_text(json.dumps({"traceEvents": [{"ph": "X", "pid": pid}]}))
    (tmp_path / "trace-3.json").write_text('{"traceEvents": [')
    target = tmp_path / "all.json"
    assert merge_traces(tmp_path, target, [{"ph": "M", "pid": 9}]) == 3
    assert [event["pid"] for event in json.loads(target.read_text())["traceEvents"]] == [1, 2, 9]
