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
def attempt() -> Callable[..., subprocess.CompletedProcess[str]]:
    """`attempt(program, *run_flags)`: a Python program run to its end, on an H100 by default.

    program: its path and its arguments. env: variables beside those of this process.
    python: the interpreter, of another environment.
    """

    def run(
        program: Sequence[object],
        *flags: str,
        gpu: str = "h100_sxm",
        timeout_s: float = 600,
        env: dict[str, str] | None = None,
        python: object = sys.executable,
    ) -> subprocess.CompletedProcess[str]:
        line = [python, "-m", "revati.cli.main", "run", "--gpu", gpu, *flags, "--", python, *program]
        return subprocess.run(
            [*map(str, line)],
            capture_output=True,
            text=True,
            timeout=timeout_s,
            env={**os.environ, **(env or {})},
        )

    return run


@pytest.fixture(scope="session")
def emulate(attempt: Callable[..., subprocess.CompletedProcess[str]]) -> Callable[..., Any]:
    """As `attempt`, for a program that ends well: the JSON that it prints behind RESULT."""

    def run(program: Sequence[object], *flags: str, **options: Any) -> Any:
        done = attempt(program, *flags, **options)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return result_of(done.stdout)

    return run


def result_of(output: str) -> Any:
    """The JSON that a program printed behind RESULT."""
    (found,) = [text for text in output.splitlines() if text.startswith("RESULT ")]
    return json.loads(found.removeprefix("RESULT "))
