"""Who gets Python's lock: a busy event loop and a thread of its executor, in real time and in `charged`.

`python -m benchmarks.python_lock [--tasks 20,75,100,150] [--jobs 200]`. A uvloop loop is sent a byte every
2.4 ms, as a server's is by its engine, and then runs so many tasks of 50 us. Jobs of an executor with one
thread (0.3 ms of Python, some C without the lock, 0.3 ms of Python, as a tokenizer has) wait for the lock
beside it. Printed: how long a job took, the tasks of a byte, and from one byte to the next. A loop that never
sleeps, and whose tasks take less than 5 ms, starves the thread. Real time needs two idle processors.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median

from rich import box
from rich.console import Console
from rich.table import Table

STEP_S = 0.0024
LONGEST_S = 20.0


def _compute(units: int) -> None:
    total = 0
    for number in range(units):
        total += number


def serve(tasks: int, jobs: int) -> None:
    """One loop, its feeder in a child process, and the jobs. Prints what it measured and ends the process."""
    import uvloop

    ours, theirs = socket.socketpair()
    if os.fork() == 0:
        ours.close()
        try:
            while True:
                time.sleep(STEP_S)
                theirs.send(b"x", socket.MSG_DONTWAIT)
        except OSError:
            os._exit(0)
    theirs.close()
    ours.setblocking(False)
    begin_s = time.thread_time()
    _compute(200_000)
    units_each_us = 0.2 / (time.thread_time() - begin_s)
    task, half_job, data = int(50 * units_each_us), int(300 * units_each_us), bytes(range(256)) * 100
    bursts_s: list[float] = []

    def job() -> None:
        _compute(half_job)
        zlib.compress(data)
        _compute(half_job)

    async def run() -> None:
        loop = asyncio.get_running_loop()

        def on_byte() -> None:
            ours.recv(100)
            begin_s, left = time.monotonic(), tasks

            def one() -> None:
                nonlocal left
                _compute(task)
                left -= 1
                if not left:
                    bursts_s.append(time.monotonic() - begin_s)

            for _ in range(tasks):
                loop.call_soon(one)

        loop.add_reader(ours.fileno(), on_byte)
        executor = ThreadPoolExecutor(1)
        begin_s = time.monotonic()
        waiting = [loop.run_in_executor(executor, job) for _ in range(jobs)]
        done, _ = await asyncio.wait(waiting, timeout=LONGEST_S)
        took_s = time.monotonic() - begin_s
        print(
            json.dumps(
                {
                    "job_ms": 1e3 * took_s / max(1, len(done)),
                    "burst_ms": 1e3 * median(bursts_s),
                    "step_ms": 1e3 * took_s / len(bursts_s),
                }
            ),
            flush=True,
        )
        os._exit(0)  # some jobs may still wait for their turn

    uvloop.run(run())


def measure(tasks: int, jobs: int, *, charged: bool) -> dict[str, float]:
    """What one run in a process of its own printed."""
    program = [sys.executable, "-m", "benchmarks.python_lock", "--serve", str(tasks), "--jobs", str(jobs)]
    with tempfile.TemporaryDirectory() as folder:
        stats = str(Path(folder) / "stats.json")
        clock = [sys.executable, "-m", "revati.clock", "--cpu-time", "charged", "--stats", stats, "--"]
        command = clock + program if charged else program
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def main() -> None:
    """Measure side by side and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", default="20,75,100,150")
    parser.add_argument("--jobs", type=int, default=200)
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve is not None:
        serve(arguments.serve, arguments.jobs)
        return
    table = Table("tasks", "time", "ms a job", "ms a burst", "ms a step", box=box.SIMPLE_HEAD)
    for tasks in map(int, arguments.tasks.split(",")):
        for charged in (False, True):
            got = measure(tasks, arguments.jobs, charged=charged)
            columns = (f"{got[name]:.2f}" for name in ("job_ms", "burst_ms", "step_ms"))
            table.add_row(str(tasks), "charged" if charged else "real", *columns)
    Console().print(table)


if __name__ == "__main__":
    main()
