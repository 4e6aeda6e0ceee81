"""Does the compiled backend fit the installed torch? Asked before it is loaded, which would not end well."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path


class BackendMismatchError(ImportError):
    """The extension `revati._C` is missing or was built for another torch; the message says what to do."""


_REBUILD = "rebuild it with `pip install --no-build-isolation .` in Revati's repository"


def built_for() -> str | None:
    """The torch that `revati._C` was compiled against, as "2.13.0+cpu"; None where it was never built."""
    note = Path(__file__).resolve().parents[1] / "native" / "built-for-torch"
    return note.read_text().strip() if note.is_file() else None


def installed_torch() -> str:
    """Version of the torch that `import torch` would load, read from its version.py without importing it."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        raise BackendMismatchError(
            "revati: torch is not installed; expected torch 2.13 (pip install torch==2.13.0)"
        )
    text = (Path(spec.origin).parent / "version.py").read_text()
    found = re.search(r"^__version__ = '([^']+)'", text, re.MULTILINE)
    return found.group(1) if found else "unknown"


def check() -> None:
    """Raise BackendMismatchError unless the extension is there and was built for the installed torch."""
    built, installed = built_for(), installed_torch()
    if built is None or importlib.util.find_spec("revati._C") is None:
        raise BackendMismatchError(f"revati: the extension revati._C is not built; {_REBUILD}")
    if _public(built) != _public(installed):
        raise BackendMismatchError(
            f"revati: the extension was built for torch {built}, and the installed one is torch {installed}; "
            f"install torch {_public(built)}, or {_REBUILD}"
        )


def _public(version: str) -> str:
    """Without the part that tells CPU from CUDA builds: "2.13.0+cpu" -> "2.13.0"."""
    return version.partition("+")[0]
