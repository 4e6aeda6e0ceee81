"""Which vLLM this plug-in was written and tested for. All of them need the same PyTorch."""

from __future__ import annotations

import sys
from importlib import metadata

SUPPORTED = ("0.30", "0.31", "0.32")
NEWEST = "0.32.0"


def refusal(version: str) -> str | None:
    """One line on why a vLLM of this version is not run, or None for one that is supported."""
    if ".".join(version.split(".")[:2]) in SUPPORTED:
        return None
    *others, last = [f"{supported}.x" for supported in SUPPORTED]
    expected = f"{', '.join(others)} or {last}"
    return (
        f"vLLM {version} is not supported, expected {expected}: pip install vllm=={NEWEST} "
        "(docs/adding-an-engine-version.md says how to add one)"
    )


def check() -> None:
    """End the process, in one line and with code 2, where the installed vLLM is not supported.

    vLLM passes over every exception of a platform plug-in and would look for another platform.
    """
    from revati.cuda import refusal as last_word

    if text := refusal(metadata.version("vllm")):
        last_word.note(text)
        print(f"revati: {text}", file=sys.stderr)
        raise SystemExit(2)
