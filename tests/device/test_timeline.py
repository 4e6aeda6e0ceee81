"""Streams, events and graphs against hand-computed timelines, random programs against a small simulator.

Outside a run the host's clock moves only by what is modelled: launches and waits. Times are exact.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from revati import _C
from tests.device.clockwork import GAP, GRAPH_LAUNCH, LAUNCH, MS, busy, new_event, new_stream, settled


def test_one_stream_runs_in_order() -> None:
    stream, start = new_stream(), settled()
    busy(stream, 10 * MS)
    busy(stream, 5 * MS)
    assert _C.now_ns() - start == 2 * LAUNCH  # launching does not wait
    stream.synchronize()
    assert _C.now_ns() - start == LAUNCH + 15 * MS + 2 * GAP


def test_two_streams_overlap() -> None:
    a, b, start = new_stream(), new_stream(), settled()
    busy(a, 10 * MS)
    busy(b, 10 * MS)
    torch.revati.synchronize()  # type: ignore[attr-defined]
    assert _C.now_ns() - start == 2 * LAUNCH + 10 * MS + GAP


def test_two_devices_overlap() -> None:
    a, b, start = new_stream(0), new_stream(1), settled()
    busy(a, 10 * MS)
    busy(b, 7 * MS)
    assert settled() - start == LAUNCH + 10 * MS + GAP


def test_a_stream_waits_for_an_event_of_another() -> None:
    a, b, start = new_stream(), new_stream(), settled()
    done = new_event()
    busy(a, 10 * MS)
    done.record(a)
    b.wait_event(done)
    busy(b, 5 * MS)
    b.synchronize()
    assert _C.now_ns() - start == LAUNCH + 15 * MS + 2 * GAP


def test_work_after_the_event_is_not_waited_for() -> None:
    a, b, start = new_stream(), new_stream(), settled()
    done = new_event()
    busy(a, 1 * MS)
    done.record(a)
    busy(a, 50 * MS)
    b.wait_event(done)
    busy(b, 1 * MS)
    b.synchronize()
    assert _C.now_ns() - start == LAUNCH + 2 * MS + 2 * GAP


def test_waiting_for_an_event_that_was_never_recorded_is_no_wait() -> None:
    a, start = new_stream(), settled()
    a.wait_event(new_event())
    busy(a, 1 * MS)
    a.synchronize()
    assert _C.now_ns() - start == LAUNCH + MS + GAP


def test_elapsed_time_is_the_devices_and_not_the_hosts() -> None:
    a = new_stream()
    settled()
    begin, end = new_event(), new_event()
    begin.record(a)
    busy(a, 3 * MS)
    end.record(a)
    assert not end.query()
    end.synchronize()
    assert end.query()
    assert begin.elapsed_time(end) == pytest.approx((LAUNCH + 3 * MS + GAP) / 1e6)


def test_an_idle_stream_starts_when_the_host_launches() -> None:
    a = new_stream()
    busy(a, MS)
    start = settled()
    _C.charge_ns(20 * MS)
    busy(a, MS)
    a.synchronize()
    assert _C.now_ns() - start == 20 * MS + LAUNCH + MS + GAP


def capture(*durations: int) -> object:
    graph = torch.revati.CUDAGraph()  # type: ignore[attr-defined]
    with torch.revati.graph(graph):  # type: ignore[attr-defined]
        for ns in durations:
            _C.occupy(ns, 0)
    return graph


def test_capture_takes_no_device_time() -> None:
    start = settled()
    capture(10 * MS, 10 * MS)
    assert settled() == start


def test_replay_is_one_launch_and_the_sum_of_its_kernels() -> None:
    graph = capture(2 * MS, 3 * MS)
    start = settled()
    graph.replay()  # type: ignore[attr-defined]
    assert _C.now_ns() - start == GRAPH_LAUNCH
    graph.replay()  # type: ignore[attr-defined]
    assert settled() - start == GRAPH_LAUNCH + 2 * (5 * MS + 2 * GAP)


# ---------------------------------------------------------------- random programs
@dataclass
class Simulator:
    """What a GPU does with streams and events, in as few words as it can be said."""

    host: int = 0
    tail: list[int] = field(default_factory=lambda: [0, 0, 0])
    events: list[int] = field(default_factory=lambda: [0, 0])

    def step(self, op: str, stream: int, other: int, ns: int) -> None:
        if op == "busy":
            self.host += LAUNCH
            self.tail[stream] = max(self.tail[stream], self.host) + ns + GAP
        elif op == "record":
            self.tail[stream] = self.events[other] = max(self.tail[stream], self.host)
        elif op == "wait":
            self.tail[stream] = max(self.tail[stream], self.events[other])
        elif op == "replay":
            self.host += GRAPH_LAUNCH
            self.tail[stream] = max(self.tail[stream], self.host) + 3 * MS + 2 * GAP
        elif op == "synchronize":
            self.host = max(self.host, self.tail[stream])
        elif op == "synchronize event":
            self.host = max(self.host, self.events[other])
        else:
            self.host += ns


OPS = st.sampled_from(["busy", "record", "wait", "replay", "synchronize", "synchronize event", "host"])
PROGRAMS = st.lists(
    st.tuples(OPS, st.integers(0, 2), st.integers(0, 1), st.integers(0, 10 * MS)), max_size=40
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(program=PROGRAMS)
def test_random_programs_take_the_time_the_simulator_says(program: list[tuple[str, int, int, int]]) -> None:
    graph = capture(MS, 2 * MS)
    streams = [new_stream() for _ in range(3)]
    events = [new_event() for _ in range(2)]
    start = settled()
    simulator = Simulator()
    for op, stream, event, ns in program:
        simulator.step(op, stream, event, ns)
        if op == "busy":
            busy(streams[stream], ns)
        elif op == "record":
            events[event].record(streams[stream])
        elif op == "wait":
            streams[stream].wait_event(events[event])
        elif op == "replay":
            with torch.revati.stream(streams[stream]):  # type: ignore[attr-defined]
                graph.replay()  # type: ignore[attr-defined]
        elif op == "synchronize":
            streams[stream].synchronize()
        elif op == "synchronize event":
            events[event].synchronize()
        else:
            _C.charge_ns(ns)
        assert _C.now_ns() - start == simulator.host
    assert settled() - start == max(simulator.host, *simulator.tail)
