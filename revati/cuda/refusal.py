"""One line for the end of a run, where Revati refused something deep inside a program.

The exception that follows is told by the program, often as several tracebacks of several processes. The first
refusal of a run is kept in its directory, and the command line repeats it as its last word.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

FILE = "refusal.txt"


def note(text: str) -> None:
    """Keep `text` unless there is a refusal already. Does nothing outside a run; never raises."""
    if folder := os.environ.get("REVATI_RUN_DIR"):
        with suppress(OSError), open(Path(folder) / FILE, "x") as file:
            file.write(" ".join(text.split()))


def read(run_dir: Path) -> str | None:
    """The refusal of the run with this directory, if there was one."""
    try:
        return (run_dir / FILE).read_text(errors="replace").strip() or None
    except OSError:
        return None
