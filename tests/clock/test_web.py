"""uvicorn and an aiohttp client in one virtual time."""

from __future__ import annotations

import socket
import sys

import pytest

from tests.clock.command import PROGRAMS


def load(virtual, loop, count, seconds, mode="free", timeout=120):
    pytest.importorskip("uvicorn")
    pytest.importorskip("aiohttp")
    with socket.create_server(("127.0.0.1", 0)) as s:
        port = s.getsockname()[1]
    argv = [sys.executable, str(PROGRAMS / "web_client.py"), str(port), loop, str(count), str(seconds)]
    return virtual(argv, mode, timeout=timeout).values()


def test_latencies_are_exact_and_identical_in_two_runs(virtual):
    runs = [load(virtual, "uvloop", 60, 60) for _ in range(2)]
    assert all(0.25 - 1e-9 <= x <= 0.2511 for x in runs[0]["latencies"])
    assert runs[0] == runs[1]


@pytest.mark.slow
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_virtual_hour_of_poisson_load(virtual, loop):
    run = load(virtual, loop, 1000, 3600)
    assert run["took"] > 3600 and len(run["latencies"]) > 900
    assert all(0.25 - 1e-9 <= x <= 0.2511 for x in run["latencies"])
