"""`revati.trace()`: a Chrome trace of the virtual GPUs, one process a device, one track a stream."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import revati
from revati import _C
from tests.device.clockwork import GAP, LAUNCH, MS, busy, new_event, new_stream, settled


def traced(path: Path) -> tuple[list[dict[str, Any]], dict[tuple[int, int], str]]:
    """Operations in order of their start, and the name of each track."""
    events = json.loads(path.read_text())["traceEvents"]
    operations = sorted((e for e in events if e["ph"] == "X"), key=lambda e: e["ts"])
    return operations, {(e["pid"], e["tid"]): e["args"]["name"] for e in events if e["name"] == "thread_name"}


def test_operations_carry_name_shapes_start_and_length(tmp_path: Path) -> None:
    x = torch.empty(64, 128, dtype=torch.bfloat16, device="revati:0")
    _C.mark_phantom(x)
    start = settled()
    with revati.trace(tmp_path / "trace.json"):
        x @ x.T
        torch.nn.functional.silu(x)
    operations, tracks = traced(tmp_path / "trace.json")
    assert [e["name"] for e in operations] == ["aten::mm", "aten::silu"]
    mm, silu = operations
    assert mm["args"]["shapes"] == "[64, 128]BFloat16 [128, 64]BFloat16"
    assert mm["ts"] * 1e3 == pytest.approx(start + LAUNCH)
    assert silu["ts"] * 1e3 >= mm["ts"] * 1e3 + mm["dur"] * 1e3
    assert list(tracks.values()) == ["stream 0"]


def test_devices_are_processes_and_streams_are_tracks(tmp_path: Path) -> None:
    side, other = new_stream(0), new_stream(1)
    settled()
    with revati.trace(tmp_path / "trace.json"):
        busy(side, MS)
        busy(other, MS)
    operations, tracks = traced(tmp_path / "trace.json")
    assert [(e["pid"], e["tid"]) for e in operations] == [(0, side.stream_id), (1, other.stream_id)]
    assert set(tracks) == {(0, side.stream_id), (1, other.stream_id)}
    names = [
        e
        for e in json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
        if e["name"] == "process_name"
    ]
    assert {e["args"]["name"] for e in names} == {"GPU 0", "GPU 1"}


def test_a_replay_shows_its_kernels_on_their_streams(tmp_path: Path) -> None:
    graph, side, fork, join = torch.revati.CUDAGraph(), new_stream(), new_event(), new_event()  # type: ignore[attr-defined]
    with torch.revati.graph(graph):  # type: ignore[attr-defined]
        main = torch.revati.current_stream()  # type: ignore[attr-defined]
        busy(main, 2 * MS)
        fork.record(main)
        side.wait_event(fork)
        busy(side, 5 * MS)
        busy(main, 3 * MS)
        join.record(side)
        main.wait_event(join)
        busy(main, 1 * MS)
    settled()
    with revati.trace(tmp_path / "trace.json"):
        graph.replay()
    operations, _ = traced(tmp_path / "trace.json")
    begin = operations[0]["ts"]
    on_side = [e for e in operations if e["tid"] == side.stream_id]
    on_main = [e for e in operations if e["tid"] != side.stream_id]
    assert [round((e["ts"] - begin) * 1e3) for e in on_side] == [2 * MS + GAP]
    assert [round((e["ts"] - begin) * 1e3) for e in on_main] == [0, 2 * MS + GAP, 7 * MS + 2 * GAP]
    assert [round(e["dur"] * 1e3) for e in on_main] == [2 * MS, 3 * MS, MS]


def test_nothing_is_kept_outside_the_context(tmp_path: Path) -> None:
    with revati.trace(tmp_path / "trace.json"):
        pass
    busy(new_stream(), MS)
    assert traced(tmp_path / "trace.json")[0] == []
    assert _C.take_trace() == []
