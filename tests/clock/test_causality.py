"""The order and the times of all receives equal those of a discrete-event simulation."""

from __future__ import annotations

import json
import random
import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.clock.command import PROGRAMS

KINDS = ("pipe", "unix", "tcp", "zmq", "word", "semaphore")
TOLERANCE_US = 3  # the clock moves one nanosecond a read


def make_world(rnd: random.Random) -> dict:
    """A world that cannot deadlock: sends and receives come from one global order of messages."""
    n = rnd.randint(2, 8)
    channels, ends, programs = [], {}, [[] for _ in range(n)]
    for _ in range(rnd.randint(3, 12 * n)):
        what = rnd.random()
        p = rnd.randrange(n)
        if what < 0.45:
            programs[p].append(["sleep", rnd.randint(50, 200_000)])
        elif what < 0.6 and p:
            programs[p].append(["report", 0])
        else:
            q = rnd.choice([x for x in range(n) if x != p])
            if (p, q) not in ends:
                ends[p, q] = len(channels)
                channels.append(rnd.choice(KINDS))
            programs[p].append(["send", ends[p, q]])
            programs[q].append(["recv", ends[p, q]])
    return {"channels": channels, "programs": programs, "pause": rnd.randint(100, 5000)}


def simulate(world: dict) -> tuple[list, int]:
    """What every process receives and when, and the smallest gap between events whose order could tie."""
    n = len(world["programs"])
    clock, at, logs = [0] * n, [0] * n, [[] for _ in range(n)]
    sent: dict[int, list[int]] = {}
    reports: list[list[int]] = [[] for _ in range(n)]
    moved = True
    while moved:
        moved = False
        for p, program in enumerate(world["programs"]):
            while at[p] < len(program):
                op, x = program[at[p]]
                if op == "sleep":
                    clock[p] += x
                elif op == "send":
                    sent.setdefault(x, []).append(clock[p])
                elif op == "report":
                    reports[p].append(clock[p])
                elif sent.get(x):
                    clock[p] = max(clock[p], sent[x].pop(0))
                    logs[p].append([x, clock[p]])
                else:
                    break
                at[p] += 1
                moved = True
    assert all(a == len(p) for a, p in zip(at, world["programs"], strict=True)), "the world deadlocks"
    gap, times = 10**9, sorted(t for r in reports for t in r)
    now = clock[0]
    while any(reports):
        ready = [p for p in range(n) if reports[p] and reports[p][0] <= now]
        gap = min([gap, *(abs(t - now) for t in times)])
        if not ready:
            first = min(r[0] for r in reports if r)
            gap = min([gap, *(t - first for t in times if t > first)])
            gap = 0 if times.count(first) > 1 else gap
            now = first
            ready = [p for p in range(n) if reports[p] and reports[p][0] <= now]
        p = min(ready)
        reports[p].pop(0)
        logs[0].append([1000 + p, now])
        now += world["pause"]
    return logs, gap


def worlds_from(seed: int, count: int) -> tuple[list[dict], list[list]]:
    """Worlds without ties, and what the simulation says of them."""
    rnd, worlds, expected = random.Random(seed), [], []
    while len(worlds) < count:
        world = make_world(rnd)
        logs, gap = simulate(world)
        if gap > 3 * TOLERANCE_US:
            worlds.append(world)
            expected.append(logs)
    return worlds, expected


def differences(expected: list, got: list) -> list[str]:
    """Receives that differ in order, or in time by more than the tolerance."""
    found = []
    for w, (want, have) in enumerate(zip(expected, got, strict=True)):
        for p, (a, b) in enumerate(zip(want, have, strict=True)):
            same = [x for x, _ in a] == [x for x, _ in b]
            if not same or any(abs(s - t) > TOLERANCE_US for (_, s), (_, t) in zip(a, b, strict=True)):
                found.append(f"world {w} process {p}: expected {a}, got {b}")
    return found


def play(virtual, tmp_path, worlds, *options, timeout=60):
    """The logs of these worlds, played in one run."""
    file = tmp_path / "worlds.json"
    file.write_text(json.dumps(worlds))
    run = virtual([sys.executable, str(PROGRAMS / "worlds.py"), str(file)], "free", *options, timeout=timeout)
    return run.values()


@settings(max_examples=3, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32))
def test_receives_equal_the_simulation(virtual, tmp_path, seed):
    worlds, expected = worlds_from(seed, 20)
    assert differences(expected, play(virtual, tmp_path, worlds)) == []


def test_receives_equal_the_simulation_beside_cpu_hogs(virtual, tmp_path, hogs):
    worlds, expected = worlds_from(7, 15)
    assert differences(expected, play(virtual, tmp_path, worlds, timeout=110)) == []


def test_threads_side_by_side_keep_causality_too(virtual, tmp_path):
    worlds, expected = worlds_from(11, 20)
    assert differences(expected, play(virtual, tmp_path, worlds, "--parallel")) == []


@pytest.mark.parametrize("kind", ["words", "semaphores", "conditions", "pipes"])
def test_the_clock_stands_while_two_keep_each_other_awake(virtual, kind):
    """They run side by side and wait in turn, most often just when the timekeeper looks."""
    rounds = 10_000
    program = [sys.executable, str(PROGRAMS / "ping_pong.py"), kind, str(rounds)]
    slept_us = rounds / 10 * 1000
    assert virtual(program, "free", "--parallel").values()["took_us"] == pytest.approx(slept_us, abs=1)


def test_a_timekeeper_that_trusts_the_slots_alone_fails(virtual, tmp_path):
    worlds, expected = worlds_from(3, 40)
    assert differences(expected, play(virtual, tmp_path, worlds, "--naive")) != []


@pytest.mark.slow
@pytest.mark.timeout(1300)
@pytest.mark.parametrize("beside_hogs", [False, True])
@pytest.mark.parametrize("part", range(10))
def test_thousands_of_worlds(virtual, tmp_path, request, part, beside_hogs):
    if beside_hogs:
        request.getfixturevalue("hogs")
    worlds, expected = worlds_from(1000 + part, 250)
    assert differences(expected, play(virtual, tmp_path, worlds, timeout=1200)) == []


@pytest.mark.parametrize("zmq", [False, True])
def test_two_runs_are_identical(virtual, tmp_path, zmq):
    """What programs see is the same; without ZMQ's own threads every jump is, to the nanosecond."""
    worlds, _ = worlds_from(5, 10)
    if not zmq:
        for world in worlds:
            world["channels"] = ["unix" if kind == "zmq" else kind for kind in world["channels"]]
    logs, jumps = [], []
    for i in range(2):
        log = tmp_path / f"log{i}"
        logs.append(play(virtual, tmp_path, worlds, "--time-log", str(log)))
        jumps.append([x for x in map(json.loads, log.open()) if x["event"] == "jump"])
    assert logs[0] == logs[1] and len(jumps[0]) == len(jumps[1]) > 100
    assert zmq or jumps[0] == jumps[1]
