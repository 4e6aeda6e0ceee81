"""The socket protocol: participants, collectives, broken and hostile peers."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from revati.clock import protocol
from revati.clock.protocol import Participant, ProtocolError, TimekeeperGone, pack_frame
from tests.clock.command import command_line

TOKEN = "a shared secret of the run"
SECOND = 10**9


@pytest.fixture
def keeper(tmp_path) -> Iterator[tuple[str, tuple[str, int]]]:
    """A run that only waits; gives its Unix and TCP addresses."""
    with socket.create_server(("127.0.0.1", 0)) as s:
        port = s.getsockname()[1]
    fifo = tmp_path / "gate"
    os.mkfifo(fifo)
    gate = "import os, sys; os.read(os.open(sys.argv[1], os.O_RDWR), 1)"
    options = ("--run-dir", str(tmp_path), "--listen", f"127.0.0.1:{port}")
    line = command_line([sys.executable, "-c", gate, str(fifo)], "free", options, tmp_path / "stats.json")
    run = subprocess.Popen(line, env={**os.environ, "REVATI_CLOCK_TOKEN": TOKEN}, stderr=subprocess.PIPE)
    path = str(tmp_path / "clock.sock")
    end = time.monotonic() + 5
    while True:
        try:
            Participant(("127.0.0.1", port), token=TOKEN).leave()
            break
        except ProtocolError:
            assert time.monotonic() < end and run.poll() is None
            time.sleep(0.02)
    yield path, ("127.0.0.1", port)
    with open(fifo, "wb", buffering=0) as f:
        f.write(b"x")
    assert run.wait(timeout=5) == 0, "the timekeeper must have survived"
    run.stderr.close()


def test_participants_wait_and_time_jumps_to_the_earliest(keeper):
    path, tcp = keeper
    with Participant(path) as a, Participant(tcp, token=TOKEN) as b:
        begin = a.now_ns()
        woke = []
        def wait(p, seconds):
            woke.append((seconds, p.wait_until(begin + seconds * SECOND).now_ns - begin))
            with contextlib.suppress(ProtocolError):
                p.wait_until()
        threads = [threading.Thread(target=wait, args=(p, s), daemon=True) for p, s in ((a, 20), (b, 7))]
        [t.start() for t in threads]
        end = time.monotonic() + 5
        while len(woke) < 2:
            assert time.monotonic() < end
            time.sleep(0.005)
        assert woke == [(7, 7 * SECOND), (20, 20 * SECOND)]


def test_one_wakes_another(keeper):
    path, _ = keeper
    with Participant(path) as a, Participant(path) as b:
        result = []
        t = threading.Thread(target=lambda: result.append(b.wait_until()))
        t.start()
        a.wait_until(a.now_ns() + SECOND)
        a.wake(b.id)
        t.join(5)
        assert result[0].by_participant


def test_a_collective_ends_when_the_last_rank_is_ready(keeper):
    path, tcp = keeper
    with Participant(path) as a, Participant(tcp, token=TOKEN) as b:
        a.post_collective(5, 1, 2, 100, 40)
        b.post_collective(5, 1, 2, 300, 50)
        assert a.collective_done() == b.collective_done() == protocol.CollectiveDone(5, 1, 350)


def test_a_lost_rank_fails_the_collective_of_the_others(keeper):
    path, _ = keeper
    with Participant(path) as a:
        b = Participant(path)
        for p in (a, b):
            p.post_collective(9, 0, 2, 0, 1)
        b.collective_done()
        a.collective_done()
        a.post_collective(9, 1, 2, 0, 1)
        a.now_ns()
        b._socket.close()
        with pytest.raises(ProtocolError, match="lost participant") as error:
            a.collective_done()
        assert error.value.code == protocol.COLLECTIVE_LOST
        assert a.now_ns() >= 0


def test_a_wrong_token_is_refused(keeper):
    with pytest.raises(ProtocolError, match="wrong token"):
        Participant(keeper[1], token="something else altogether")


def test_a_participant_that_dies_while_it_runs_does_not_stop_the_clock(keeper):
    path, _ = keeper
    dead = Participant(path)
    with Participant(path) as a:
        dead._socket.close()
        now = a.now_ns()
        assert a.wait_until(now + SECOND).now_ns == now + SECOND


STEPS_BEFORE_DEATH = {
    "connected": "",
    "half a HELLO": "s.sendall(hello[:9])",
    "running": "s.sendall(hello); s.recv(64)",
    "half a WAIT": "s.sendall(hello); s.recv(64); s.sendall(wait[:11])",
    "waiting": "s.sendall(hello); s.recv(64); s.sendall(wait)",
    "waiting for ever": "s.sendall(hello); s.recv(64); s.sendall(for_ever)",
    "in a collective": "s.sendall(hello); s.recv(64); s.sendall(arrive + for_ever)",
    "woken": "s.sendall(hello); s.recv(64); s.sendall(soon); s.recv(64)",
    "answers unread": "s.sendall(hello + 400 * ask)",
}


@pytest.mark.parametrize("state", STEPS_BEFORE_DEATH)
def test_a_participant_killed_at_any_state_stops_nobody(keeper, state):
    path, _ = keeper
    program = f"""
import socket, struct, sys, time
from revati.clock.protocol import *
hello = pack_frame(HELLO, struct.pack("<IH", HELLO_MAGIC, 0))
wait, for_ever, soon = (pack_frame(WAIT, struct.pack("<q", t)) for t in (10**15, NEVER, 1000))
arrive = pack_frame(COLLECTIVE, struct.pack("<QQIqq", 77, 0, 2, 0, 1))
ask = pack_frame(ASK_TIME)
s = socket.socket(socket.AF_UNIX); s.connect({path!r})
{STEPS_BEFORE_DEATH[state]}
print("there", flush=True); time.sleep(60)"""
    victim = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert victim.stdout.readline() == "there\n"
    victim.kill()
    victim.wait()
    victim.stdout.close()
    begin = time.monotonic()
    with Participant(path) as a:
        now = a.now_ns()
        assert a.wait_until(now + SECOND).now_ns >= now + SECOND
    assert time.monotonic() - begin < 5


def test_the_end_of_the_run_reaches_participants(tmp_path):
    joined = tmp_path / "joined"
    program = f"until [ -e {joined} ]; do sleep 0.1; done; sleep 1"  # sleeps are jumped over
    line = command_line(["sh", "-c", program], "wall", ("--run-dir", str(tmp_path)), tmp_path / "s.json")
    run = subprocess.Popen(line, stderr=subprocess.DEVNULL)
    end = time.monotonic() + 5
    while True:
        try:
            p = Participant(str(tmp_path / "clock.sock"))
            break
        except ProtocolError:
            assert time.monotonic() < end
    joined.touch()
    with pytest.raises(TimekeeperGone):
        while True:
            p.wait_until(p.now_ns() + 3 * SECOND)
    run.wait(timeout=5)


HELLO = pack_frame(protocol.HELLO, struct.pack("<IH", protocol.HELLO_MAGIC, 0))


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", "version"),
        (struct.pack("<IBBH", 5000, 1, 1, 0), "4096"),
        (struct.pack("<IBBH", 2**32 - 1, 1, 1, 0), "4096"),
        (pack_frame(protocol.WAIT, struct.pack("<q", 1)), "HELLO"),
        (HELLO + HELLO, "already"),
        (HELLO + pack_frame(77), "unknown frame"),
        (HELLO + pack_frame(protocol.WAIT, b"abc"), "length"),
        (HELLO + pack_frame(protocol.WAKE, struct.pack("<I", 4242)), "no participant"),
        (HELLO + pack_frame(protocol.WAIT, struct.pack("<q", 2**62)) * 2, "WAIT while"),
        (HELLO + pack_frame(protocol.COLLECTIVE, struct.pack("<QQIqq", 1, 1, 0, 0, 0)), "malformed"),
    ],
)
def test_a_bad_frame_gets_one_clear_error_and_the_end(keeper, data, says):
    with socket.socket(socket.AF_UNIX) as s:
        s.settimeout(5)
        s.connect(keeper[0])
        s.sendall(data)
        answer = b""
        while part := s.recv(4096):
            answer += part
        assert says in answer.decode(errors="replace")


def test_a_half_frame_is_given_up_after_five_seconds(keeper):
    with socket.socket(socket.AF_UNIX) as s:
        s.settimeout(8)
        s.connect(keeper[0])
        s.sendall(HELLO + b"\x08\x00")
        begin = time.monotonic()
        while s.recv(4096):
            pass
        assert time.monotonic() - begin < 7


def test_ten_thousand_fuzzed_frames(keeper):
    rnd = random.Random(0)
    kinds = range(protocol.HELLO, protocol.LEAVE + 1)
    sent = 0
    while sent < 10_000:
        with socket.socket(socket.AF_UNIX) as s:
            s.settimeout(5)
            s.connect(keeper[0])
            try:
                if rnd.random() < 0.8:
                    s.sendall(HELLO)
                for _ in range(rnd.randint(1, 40)):
                    sent += 1
                    size = rnd.choice([0, 4, 8, 36, rnd.randint(0, 60)])
                    frame = pack_frame(rnd.choice([*kinds, rnd.randrange(256)]), rnd.randbytes(size))
                    if rnd.random() < 0.05:
                        frame = rnd.randbytes(rnd.randint(1, 30))
                    s.sendall(frame)
            except OSError:
                pass  # refused already
    with Participant(keeper[0]) as p:
        assert p.now_ns() >= 0

