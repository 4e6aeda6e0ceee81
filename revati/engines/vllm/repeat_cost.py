"""What a repeated layer costs the host, learned from calls of the model in which none is repeated.

The layer that is watched is the second of its step and runs with cold caches: between two such steps a
serving engine does much else. All that follow would find them warm. So now and then a model is called as vLLM
calls it, and the next call that repeats layers shows what is missing to the same host time.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass, field
from statistics import median

from revati import _C
from revati.cuda import refusal

_OFTEN = 16  # calls of which every other one is in full; of the later ones
_EVERY = 16  # one in so many
_HISTORY = 31


def repeats(what: str) -> bool:
    """Whether "layers" or "steps" that are equal are repeated in this run, by `REVATI_REPEAT`.

    "1": both; "0": neither; "layers" or "steps": those alone; unset: both, but no steps in `wall`, whose
    repetitions would be slept off at once. ValueError for anything else.
    """
    asked = os.environ.get("REVATI_REPEAT")
    if asked is None:
        return what == "layers" or os.environ.get("REVATI_CPU_TIME") in ("free", "charged")
    if asked not in ("0", "1", "layers", "steps"):
        text = f"revati: REVATI_REPEAT={asked!r}, expected 0, 1, layers or steps; or unset it"
        refusal.note(text)
        raise ValueError(text)
    return asked in ("1", what)


def host_ns() -> int:
    """This thread's clock. It stands where the host's CPU time does not count: nothing is learned then."""
    return _C.host_own_ns() if _C.counts_cpu_time() else 0


@dataclass
class _Learned:
    calls: int = 0
    full_ns: int | None = None
    shares: deque[float] = field(default_factory=lambda: deque(maxlen=_HISTORY))


class RepeatCost:
    """Of each way to call the model: the host time of a repeated layer over that of a watched one."""

    def __init__(self) -> None:
        self._learned: dict[Hashable, _Learned] = {}

    def full_call_is_due(self, way: Hashable) -> bool:
        """Whether this call should repeat nothing. Never where the host's CPU time does not count."""
        if not _C.counts_cpu_time():
            return False
        learned = self._learned.setdefault(way, _Learned())
        learned.calls += 1
        return learned.calls % (2 if learned.calls <= _OFTEN else _EVERY) == 1

    def note_full(self, way: Hashable, host_ns: int) -> None:
        """A call in full took the host so long."""
        self._learned[way].full_ns = host_ns

    def note_repeating(self, way: Hashable, run_ns: int, watched_ns: int) -> None:
        """A call took so long without its repeated layers; those take `watched_ns` if watched ones do."""
        learned = self._learned.get(way)
        if learned is None or learned.full_ns is None or watched_ns <= 0:
            return
        learned.shares.append(max(0, learned.full_ns - run_ns) / watched_ns)
        learned.full_ns = None

    def share(self, way: Hashable) -> float:
        """1 until something is known."""
        learned = self._learned.get(way)
        return median(learned.shares) if learned is not None and learned.shares else 1.0
