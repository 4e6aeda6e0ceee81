"""Do two that wait for each other take as long in charged virtual time as in reality? Way by way of waiting.

`python -m benchmarks.waits [WAY…] [--rounds N] [--repeats N]`: two processes (or threads) send a small
message to and fro over pipes, sockets, ZMQ, queues, locks and Gloo, with a little work between, without the
clock and in `charged` in turn. Prints the median time of a round trip on both sides. The charged side has
factor 1 and what waits cost on this machine, measured first (`benchmarks.charged`) on processors that have
idled for 5 ms: two that answer at once are woken faster in reality. Exit code 1 where a ratio is beyond
`--limit`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing as mp
import os
import queue
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.charged import host_options, run_side
from revati.cli.world import make_run_dir, remove_run_dir

_WORK = 3000  # turns of a loop before each answer, some 100 us


def _work() -> int:
    return sum(range(_WORK))


def _ping_pong(first: bool, send: Callable[[], Any], receive: Callable[[], Any], rounds: int) -> float:
    """Seconds of a round trip, as this side sees it."""
    begin = time.perf_counter()
    for _ in range(rounds):
        if first:
            send()
            receive()
        else:
            receive()
            _work()
            send()
    return (time.perf_counter() - begin) / rounds


def _pipe(rank: int, ends: Any, rounds: int) -> float:
    reading, writing = (ends[0][0], ends[1][1]) if rank else (ends[1][0], ends[0][1])
    return _ping_pong(rank == 0, lambda: os.write(writing, b"x"), lambda: os.read(reading, 1), rounds)


def _unix_socket(rank: int, ends: Any, rounds: int) -> float:
    return _ping_pong(rank == 0, lambda: ends[rank].send(b"x"), lambda: ends[rank].recv(1), rounds)


def _zmq(rank: int, folder: str, rounds: int) -> float:
    import zmq

    with zmq.Context() as context, context.socket(zmq.PAIR) as pair:
        pair.bind(f"ipc://{folder}/pair") if rank == 0 else pair.connect(f"ipc://{folder}/pair")
        return _ping_pong(rank == 0, lambda: pair.send(b"x"), pair.recv, rounds)


def _queue(rank: int, queues: Any, rounds: int) -> float:
    return _ping_pong(rank == 0, lambda: queues[rank].put(b"x"), queues[1 - rank].get, rounds)


def _semaphore(rank: int, semaphores: Any, rounds: int) -> float:
    return _ping_pong(rank == 0, semaphores[rank].release, semaphores[1 - rank].acquire, rounds)


def _gloo_group(rank: int, folder: str) -> Any:
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group("gloo", store=dist.FileStore(f"{folder}/gloo", 2), rank=rank, world_size=2)
    return dist


def _gloo(rank: int, folder: str, rounds: int) -> float:
    import torch

    dist, message = _gloo_group(rank, folder), torch.zeros(200, dtype=torch.uint8)
    other = 1 - rank
    return _ping_pong(rank == 0, lambda: dist.send(message, other), lambda: dist.recv(message, other), rounds)


def _gloo_all_reduce(rank: int, folder: str, rounds: int) -> float:
    import torch

    dist, message = _gloo_group(rank, folder), torch.zeros(4)

    def reduce() -> None:
        _work()
        dist.all_reduce(message)

    return _ping_pong(True, reduce, lambda: None, rounds)


def _asyncio_streams(rank: int, folder: str, rounds: int) -> float:
    path = f"{folder}/stream"
    took: list[float] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        begin = time.perf_counter()
        for _ in range(rounds):
            if rank == 0:
                writer.write(b"x")
            await reader.readexactly(1)
            if rank == 1:
                _work()
                writer.write(b"x")
        took.append((time.perf_counter() - begin) / rounds)
        await writer.drain()

    async def main() -> None:
        if rank == 1:
            while not os.path.exists(path):
                await asyncio.sleep(0.01)
            await talk(*await asyncio.open_unix_connection(path))
            return
        done = asyncio.Event()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await talk(reader, writer)
            done.set()

        async with await asyncio.start_unix_server(serve, path):
            await done.wait()

    asyncio.run(main())
    return took[0]


def _pipes(folder: str) -> Any:
    return os.pipe(), os.pipe()


WAYS: dict[str, tuple[Callable[[int, Any, int], float], Callable[[str], Any]]] = {
    "pipe": (_pipe, _pipes),
    "unix socket": (_unix_socket, lambda folder: socket.socketpair()),
    "zmq": (_zmq, str),
    "queue": (_queue, lambda folder: (mp.Queue(), mp.Queue())),
    "semaphore": (_semaphore, lambda folder: (mp.Semaphore(0), mp.Semaphore(0))),
    "asyncio streams": (_asyncio_streams, str),
    "gloo": (_gloo, str),
    "gloo all_reduce": (_gloo_all_reduce, str),
}
THREADS: dict[str, tuple[Callable[[int, Any, int], float], Callable[[str], Any]]] = {
    "threads, queue": (_queue, lambda folder: (queue.SimpleQueue(), queue.SimpleQueue())),
    "threads, semaphore": (_semaphore, lambda folder: (threading.Semaphore(0), threading.Semaphore(0))),
    "threads, pipe": (_pipe, _pipes),
}
ALL = {**WAYS, **THREADS}


def inside(way: str, rounds: int, output: Path) -> None:
    """The two sides of `way`; writes the seconds of a round trip."""
    with tempfile.TemporaryDirectory() as folder:
        talk, make = ALL[way]
        shared = make(folder)

        apart: Any = threading.Thread if way in THREADS else mp.get_context("fork").Process
        other = apart(target=talk, args=(1, shared, rounds))
        other.start()
        output.write_text(json.dumps(talk(0, shared, rounds)))
        other.join()


def measure(way: str, rounds: int, charged: bool, clock_options: Sequence[str]) -> float:
    """Microseconds of a round trip."""
    run_dir = make_run_dir()
    try:
        output = run_dir / "waits.json"
        command = [sys.executable, "-m", "benchmarks.waits", way]
        command += ["--rounds", str(rounds), "--inside", str(output)]
        run_side(command, run_dir, "charged" if charged else None, clock_options)
        return float(json.loads(output.read_text())) * 1e6
    finally:
        remove_run_dir(run_dir)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.waits", description=__doc__)
    parser.add_argument("ways", nargs="*", metavar="WAY", help=f"of {', '.join(ALL)}; all")
    parser.add_argument("--rounds", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--limit", type=float, default=3.0, help="largest ratio, either way")
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if unknown := set(arguments.ways) - {*ALL}:
        parser.error(f"unknown way {min(unknown)!r}; known are {', '.join(ALL)}")
    if min(arguments.rounds, arguments.repeats) < 1:
        parser.error("--rounds and --repeats must be 1 or more")
    if arguments.inside:
        inside(arguments.ways[0], arguments.rounds, arguments.inside)
        return 0
    clock_options = host_options()
    table = Table(box=box.SIMPLE_HEAD)
    for header in ("way of waiting", "real, us", "charged, us", "charged / real"):
        table.add_column(header, justify="left" if header == "way of waiting" else "right")
    worst = 1.0
    for way in arguments.ways or ALL:
        sides: dict[bool, list[float]] = {False: [], True: []}
        for _ in range(arguments.repeats):
            for charged in sides:
                sides[charged].append(measure(way, arguments.rounds, charged, clock_options))
        real, virtual = median(sides[False]), median(sides[True])
        worst = max(worst, virtual / real, real / virtual)
        table.add_row(way, f"{real:.1f}", f"{virtual:.1f}", f"{virtual / real:.2f}")
    print(f"host costs of this machine: {' '.join(clock_options)}")
    Console(highlight=False).print(table)
    return 0 if worst <= arguments.limit else 1


if __name__ == "__main__":
    sys.exit(main())
