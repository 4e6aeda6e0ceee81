"""Which vLLM this plug-in was written and tested for."""

from __future__ import annotations

import warnings
from importlib import metadata

SUPPORTED = ("0.32",)


def check() -> None:
    """Warn in one line about a vLLM that was never tested; raise for one that cannot work."""
    version = metadata.version("vllm")
    if not version.startswith(SUPPORTED):
        warnings.warn(
            f"revati: vLLM {version} is untested; expected {' or '.join(v + '.x' for v in SUPPORTED)}. "
            "See docs/limitations.md, or install vllm==0.32.0",
            stacklevel=2,
        )
