"""Runs small real programs in virtual time and hands back what they printed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from revati.clock.launch import native_dir
from tests.clock.command import command_line

MODES = ("free", "charged", "wall")


@dataclass
class Outcome:
    """What came of one run."""

    code: int
    out: str
    err: str
    wall_s: float
    stats: dict[str, Any] = field(default_factory=dict)

    def values(self) -> dict[str, Any]:
        """The program's last line of output, as JSON."""
        assert self.code == 0, self.err
        return json.loads(self.out.strip().splitlines()[-1])


@pytest.fixture(scope="session", autouse=True)
def built() -> None:
    """The tests run the real binaries."""
    if not (native_dir() / "revati-timekeeper").is_file():
        pytest.skip(f"the clock is not built: make -C csrc/warp OUT={native_dir()}")


@pytest.fixture
def virtual(tmp_path: Path) -> Callable[..., Outcome]:
    """`virtual("program text" | argv, mode, *options)` runs it in virtual time to its end."""

    def run(
        what: str | list[str], mode: str = "free", *options: str, timeout: float = 30, **env: str
    ) -> Outcome:
        argv = [sys.executable, "-c", textwrap.dedent(what)] if isinstance(what, str) else what
        stats = tmp_path / "stats.json"
        stats.unlink(missing_ok=True)
        begin = time.monotonic()
        done = subprocess.run(
            command_line(argv, mode, options, stats),
            capture_output=True,
            text=True,
            timeout=timeout,
            env={**os.environ, **env},
            cwd=tmp_path,
        )
        found = json.loads(stats.read_text()) if stats.exists() else {}
        return Outcome(done.returncode, done.stdout, done.stderr, time.monotonic() - begin, found)

    return run


@pytest.fixture
def hogs() -> Iterator[None]:
    """Three processes that compute without end beside the run."""
    running = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(3)]
    yield
    for p in running:
        p.kill()
        p.wait()
