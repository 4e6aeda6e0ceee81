"""vLLM's shared-memory ring in virtual time: real `MessageQueue`s of two processes, without an engine."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

pytest.importorskip("vllm")

PROGRAM = """
import json, os, threading, time
from vllm.distributed.device_communicators import shm_broadcast
from revati.engines.vllm import ring
ring.patch(shm_broadcast)
there = shm_broadcast.MessageQueue(1, 1)
back_end, result_end = os.pipe()
if os.fork() == 0:
    queue = shm_broadcast.MessageQueue.create_from_handle(there.export_handle(), 0)
    queue.wait_until_ready()
    got = [(queue.dequeue(timeout=60), time.monotonic()) for _ in range(4)]
    begin = time.monotonic()
    try: queue.dequeue(timeout=2)
    except TimeoutError: got.append(("timeout", time.monotonic() - begin))
    threading.Timer(3, queue.shutdown).start()
    begin = time.monotonic()
    try: queue.dequeue(indefinite=True)
    except RuntimeError as error: got.append((str(error), time.monotonic() - begin))
    os.write(result_end, json.dumps(got).encode())
    os._exit(0)
there.wait_until_ready()
sent = []
for number, pause in enumerate((0.5, 0, 0, 20)):
    time.sleep(pause)
    sent.append((number, time.monotonic()))
    there.enqueue(number)
os.wait()
print(json.dumps({"sent": sent, "got": json.loads(os.read(back_end, 65536))}))
"""


def test_a_reader_goes_on_when_the_writer_has_written() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "revati.clock", "--cpu-time", "free", "--", sys.executable, "-c", PROGRAM],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "VLLM_LOGGING_LEVEL": "ERROR"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    seen = json.loads(done.stdout.splitlines()[-1])
    messages, (timeout, shutdown) = seen["got"][:4], seen["got"][4:]
    for (number, sent_s), (got, got_s) in zip(seen["sent"], messages, strict=True):
        assert got == number
        assert 0 <= got_s - sent_s < 1e-6  # a clock read is a nanosecond
    assert timeout == ["timeout", pytest.approx(2, abs=0.01)]
    assert shutdown == ["cancelled", pytest.approx(3, abs=0.01)]
