"""The host factor follows the machine: a charge does not depend on how fast this machine is."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from revati.clock import launch, read_stats
from revati.clock.calibrate import REFERENCE
from revati.clock.launch import timekeeper_argv
from revati.clock.pace import Pace, PaceTeller

WORK = "from revati.clock.calibrate import work\nfor _ in range(20): work()"


def virtual_s(tmp_path: Path, work_s: float) -> tuple[float, float]:
    stats = tmp_path / f"{work_s}.json"
    pace = Pace(replace(REFERENCE, work_s=work_s))
    argv = [sys.executable, "-c", WORK]
    assert launch(argv, run_dir=tmp_path / str(work_s), stats_file=stats, pace=pace) == 0
    found = read_stats(stats)
    assert found.cpu_factor_least <= found.cpu_factor <= found.cpu_factor_most
    return found.virtual_s, found.cpu_factor


def test_a_slower_reference_machine_takes_longer(tmp_path: Path) -> None:
    fast_s, fast_factor = virtual_s(tmp_path, 0.010)
    slow_s, slow_factor = virtual_s(tmp_path, 0.200)
    assert 20 * 0.010 / 3 < fast_s < 20 * 0.010 * 3 + 1, "twenty passes, and the start of Python"
    assert 20 * 0.200 / 3 < slow_s < (20 * 0.200 + 10) * 3
    assert slow_factor > 5 * fast_factor


def test_every_processor_has_its_turn() -> None:
    before = os.sched_getaffinity(0)
    try:
        pace = Pace()
        told = [processor for _ in range(16) for processor in pace.look()[0]]
    finally:
        os.sched_setaffinity(0, before)
    assert set(told) == before
    assert pace.factor > 0


def test_lines_that_are_no_factors_are_skipped(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.write(writing, b"abc\n0 nan\n0 -1\n1\n" + b"x" * 200 + b"\n0 0.25\n")
    program = tmp_path / "wait.py"
    program.write_text("import time\nend = time.process_time() + 0.5\nwhile time.process_time() < end: pass")
    stats = tmp_path / "stats.json"
    os.set_inheritable(reading, True)
    line = timekeeper_argv(
        [sys.executable, str(program)], run_dir=tmp_path, cpu_factor=0.5, pace_fd=reading, stats_file=stats
    )
    subprocess.run(line, check=True, pass_fds=(reading,), timeout=60)
    os.close(writing)
    os.close(reading)
    found = read_stats(stats)
    assert (found.cpu_factor_least, found.cpu_factor_most) == (0.25, 0.5)


def test_a_teller_that_was_never_started_ends(tmp_path: Path) -> None:
    teller = PaceTeller(Pace())
    teller.stop()
    try:
        os.fstat(teller.read_fd)
    except OSError:
        return
    raise AssertionError("the pipe is still open")
