"""Where the small programs of these tests lie, and how one is run in virtual time."""

from __future__ import annotations

import sys
from pathlib import Path

PROGRAMS = Path(__file__).parent / "programs"


def command_line(argv: list[str], mode: str, options: tuple[str, ...], stats: Path) -> list[str]:
    """The command line of one run."""
    own = ("--cpu-time", mode, "--stats", str(stats), *options)
    return [sys.executable, "-m", "revati.clock", *own, "--", *argv]
