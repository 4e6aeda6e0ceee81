"""Virtual time: run any dynamically linked program in a clock that jumps instead of waiting."""

from revati.clock.launch import CPU_TIME_MODES, ClockError, launch, make_run_dir
from revati.clock.stats import ClockStats, read_stats

__all__ = ["CPU_TIME_MODES", "ClockError", "ClockStats", "launch", "make_run_dir", "read_stats"]
