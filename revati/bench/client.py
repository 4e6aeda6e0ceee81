"""`vllm bench serve`, with a note of how long the load itself took, in virtual and in real time.

Nothing of vLLM is changed: its own program runs, and the function that sends the load is timed from outside.
The process spends most of its life importing, so its whole duration would say little about speed.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

TIMES = "client-times.json"


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


def main() -> None:
    """Run `vllm` with this process's arguments."""
    from vllm.benchmarks import serve
    from vllm.entrypoints.cli.main import main as vllm_main

    times = Path(os.environ["REVATI_RUN_DIR"]) / TIMES
    setattr(serve, "benchmark", timed(serve.benchmark, times))  # noqa: B010 (mypy knows the signature)
    sys.argv[0] = "vllm"
    vllm_main()


if __name__ == "__main__":
    main()
