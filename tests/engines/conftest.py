"""One way to run a program with a real engine on the virtual GPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

import pytest


@pytest.fixture(scope="session")
def emulate() -> Callable[..., Any]:
    """`emulate(program, *run_flags)`: what a Python program prints behind RESULT in a run on an H100.

    program: its path and its arguments; it prints JSON. env: variables beside those of this process.
    """

    def run(
        program: Sequence[object], *flags: str, timeout_s: float = 600, env: dict[str, str] | None = None
    ) -> Any:
        line = [
            sys.executable,
            "-m",
            "revati.cli.main",
            "run",
            "--gpu",
            "h100_sxm",
            *flags,
            "--",
            sys.executable,
        ]
        done = subprocess.run(
            [*line, *map(str, program)],
            capture_output=True,
            text=True,
            timeout=timeout_s,
            env={**os.environ, **(env or {})},
        )
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        (found,) = [text for text in done.stdout.splitlines() if text.startswith("RESULT ")]
        return json.loads(found.removeprefix("RESULT "))

    return run
