"""Changes to vLLM itself, all through the ledger. Empty is the goal."""

from __future__ import annotations

_applied = False


def apply() -> None:
    """Apply what has to be changed in vLLM; idempotent, called in every process that builds a vLLM config."""
    global _applied
    if _applied:
        return
    _applied = True
