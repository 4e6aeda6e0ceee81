"""`vllm bench serve`, with a note of how long the load took, and an early end that keeps what there is.

Nothing of vLLM is changed: its own program runs, and the functions that send the load are wrapped from
outside. Its process spends most of its life importing, so its whole duration would say little about speed.
An interrupt under load ends the requests that are under way, sends no more, and lets vLLM evaluate and save
those that finished.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

TIMES = "client-times.json"
PRELOADED = ("vllm.entrypoints.cli.main", "vllm.entrypoints.cli.serve", "vllm.benchmarks.serve")
"""What vLLM's program imports first: its main imports every command, and `serve` is the largest."""
GO = b"go\n"  # on the standard input, once the server is ready
INTERRUPTED = "interrupted"  # the error of requests that an interrupt ended


def real_seconds() -> float:
    """Real time since boot: from the kernel's file, because clocks are virtual in a run."""
    with open("/proc/uptime") as file:
        return float(file.read().split()[0])


def timed(load: Callable[..., Awaitable[Any]], path: Path) -> Callable[..., Awaitable[Any]]:
    """Wrap the coroutine function `load`: its virtual and real duration go to `path`."""

    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        begin_s, begin_wall_s = time.monotonic(), real_seconds()
        try:
            return await load(*args, **kwargs)
        finally:
            took = {"load_s": time.monotonic() - begin_s, "load_wall_s": real_seconds() - begin_wall_s}
            path.write_text(json.dumps(took))

    return wrapper


class EarlyEnd:
    """Ends a load before its time. Costs nothing until it is asked to: no task and no timer of its own."""

    def __init__(self) -> None:
        self.asked = False
        self._under_way: set[asyncio.Task[Any]] = set()

    def ask(self) -> None:
        """End the requests that are under way, and let no other begin."""
        self.asked = True
        for task in list(self._under_way):
            task.cancel()

    def listening(self, load: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        """Wrap the coroutine function `load`: while it runs, an interrupt asks for the early end."""

        async def wrapper(*args: Any, **kwargs: Any) -> Any:
            asyncio.get_running_loop().add_signal_handler(signal.SIGINT, self.ask)
            return await load(*args, **kwargs)

        return wrapper

    def sent(self, requests: Callable[..., AsyncIterator[Any]]) -> Callable[..., AsyncIterator[Any]]:
        """Wrap the async generator that says when to send which request."""

        async def wrapper(*args: Any, **kwargs: Any) -> AsyncIterator[Any]:
            async for request in requests(*args, **kwargs):
                if self.asked:
                    return
                yield request

        return wrapper

    def request(
        self, send: Callable[..., Awaitable[Any]], failed: Callable[..., Any]
    ) -> Callable[..., Awaitable[Any]]:
        """Wrap the coroutine function that sends a request; `failed(...)` is the output of an ended one."""

        async def wrapper(request_func_input: Any, session: Any, pbar: Any = None) -> Any:
            task = asyncio.current_task()
            assert task is not None
            try:
                if self.asked:
                    raise asyncio.CancelledError
                self._under_way.add(task)
                return await send(request_func_input=request_func_input, session=session, pbar=pbar)
            except asyncio.CancelledError:
                if not self.asked:
                    raise
                return failed(
                    success=False,
                    error=INTERRUPTED,
                    prompt_len=request_func_input.prompt_len,
                    start_time=time.perf_counter(),
                )
            finally:
                self._under_way.discard(task)

        return wrapper


_let_go = False


def wait_at_gate() -> None:
    """Wait for the driver's word; without it, end. It comes once, for a process and all that it forks."""
    global _let_go
    if _let_go:
        return
    if sys.stdin.buffer.readline() != GO:
        sys.exit("revati: the benchmark's driver ended before the server was ready")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, sys.stdin.fileno())
    os.close(nothing)
    _let_go = True


def main() -> None:
    """Run `vllm` with this process's arguments, once the server is ready."""
    for module in PRELOADED:
        importlib.import_module(module)
    from vllm.benchmarks import serve
    from vllm.benchmarks.lib.endpoint_request_func import RequestFuncOutput
    from vllm.entrypoints.cli.main import main as vllm_main

    times = Path(os.environ["REVATI_RUN_DIR"]) / TIMES
    end = EarlyEnd()
    wrapped = {
        "benchmark": end.listening(timed(serve.benchmark, times)),
        "get_request": end.sent(serve.get_request),
        "ASYNC_REQUEST_FUNCS": {
            name: end.request(send, RequestFuncOutput) for name, send in serve.ASYNC_REQUEST_FUNCS.items()
        },
    }
    for name, value in wrapped.items():
        setattr(serve, name, value)
    sys.argv[0] = "vllm"
    wait_at_gate()
    vllm_main()


if __name__ == "__main__":
    main()
