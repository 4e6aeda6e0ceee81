"""The one list of everything Revati changes in foreign libraries: what, why, and until when.

Patches are applied through `replace`, so that an entry here exists for each of them; `revati doctor` prints
the list.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Patch:
    """One change. `target` is the dotted name, `until` says what would make it unnecessary."""

    target: str
    why: str
    until: str


APPLIED: list[Patch] = []


def note(target: str, *, why: str, until: str) -> None:
    """Note a change that is no attribute: `target` was changed by other means."""
    APPLIED.append(Patch(target, why, until))


def replace(owner: Any, name: str, value: Any, *, why: str, until: str) -> Any:
    """Set `owner.name = value`, note it, and return what was there before (None if nothing was)."""
    before = getattr(owner, name, None)
    setattr(owner, name, value)
    label = getattr(owner, "__name__", type(owner).__name__)
    module = getattr(owner, "__module__", None)
    note(
        f"{module + '.' if isinstance(owner, type) and module else ''}{label}.{name}", why=why, until=until
    )
    return before
