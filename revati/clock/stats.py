"""What the timekeeper says about a run when it has ended."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, fields
from pathlib import Path


@dataclass(frozen=True)
class ClockStats:
    """Statistics of one run; times in seconds."""

    cpu_time: str
    virtual_s: float
    wall_s: float
    exit_code: int
    stuck: bool
    """Everybody once waited for five real seconds without a deadline."""
    jumps: int
    wakes: int
    turns: int
    """Turns given one after the other (free mode)."""
    forced_turns: int
    """Turns given while another thread still computed: order may differ between runs."""
    spin_looks: int
    checks: int
    busy: int
    vetoes: int
    """Jumps that the second wave prevented."""
    deaths: int
    proc_reads: int
    slots: int
    timekeeper_cpu_s: float
    cpu_factor: float
    """charged: mean of the host factor; it follows the pace of the machine unless it was given."""
    cpu_factor_least: float
    cpu_factor_most: float

    @property
    def speedup(self) -> float:
        """Virtual seconds for each wall second."""
        return self.virtual_s / self.wall_s if self.wall_s > 0 else 0.0


def read_stats(path: str | os.PathLike[str]) -> ClockStats:
    """Read the statistics file of a run."""
    data = json.loads(Path(path).read_text())
    return ClockStats(**{f.name: data[f.name] for f in fields(ClockStats)})
