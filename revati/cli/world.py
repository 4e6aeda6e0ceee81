"""Starts one command in a world of its own (clock and GPU are virtual) and gathers what it left behind."""

from __future__ import annotations

import math
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from revati import clock
from revati.cli.environment import CPU_TIME_MODES, LATENCY_MODES, RunOptions, build_environment
from revati.cli.errors import CliError
from revati.clock import make_run_dir
from revati.clock.pace import Pace
from revati.cuda import refusal
from revati.report.ops import OpsSummary, load_json, summarize_run_dir

FREE_EPOCH_S = 1_767_225_600.0  # 2026-01-01: `free` runs start at one date, so their results are identical
_STATS_FILE = "clock-stats.json"

__all__ = ["WorldResult", "check_gpu", "check_options", "make_run_dir", "remove_run_dir", "run_world"]


@dataclass(frozen=True)
class WorldResult:
    """How a run ended: the command's exit code, the clock's statistics and the merged predictions."""

    exit_code: int
    wall_s: float
    clock: dict[str, Any]
    ops: OpsSummary
    options: RunOptions
    refusal: str | None = None  # why Revati refused to go on inside the command

    @property
    def virtual_s(self) -> float | None:
        """Virtual seconds that passed in the run, if the clock said so."""
        value = self.clock.get("virtual_s")
        return None if value is None else float(value)

    @property
    def stuck(self) -> bool:
        """Whether the run was ended because every process waited and no deadline was left."""
        return bool(self.clock.get("stuck"))

    @property
    def cpu_factor(self) -> float | None:
        """charged: what CPU time was multiplied with; the mean, where it followed the machine's pace."""
        value = self.clock.get("cpu_factor", self.options.cpu_factor)
        return round(float(value), 4) if value and self.options.cpu_time == "charged" else None

    @property
    def host_pace(self) -> float | None:
        """This machine's mean pace in the run over its best; None unless the host factor followed it."""
        mean, best = self.clock.get("cpu_factor"), self.clock.get("cpu_factor_most")
        followed = self.options.cpu_time == "charged" and self.options.cpu_factor is None
        return round(min(1.0, float(mean) / float(best)), 4) if followed and mean and best else None

    @property
    def speed_up(self) -> float | None:
        """Virtual over wall time: how much faster than the real GPU the emulation ran."""
        return self.virtual_s / self.wall_s if self.virtual_s and self.wall_s > 0 else None


def check_options(options: RunOptions) -> None:
    """Refuse a bad option with one clear line, before anything is started."""
    if options.gpus < 1:
        raise CliError(f"--gpus must be at least 1, got {options.gpus}")
    if options.cpu_time not in CPU_TIME_MODES:
        raise CliError(f"--cpu-time must be one of {', '.join(CPU_TIME_MODES)}, got {options.cpu_time!r}")
    if options.latency not in LATENCY_MODES:
        raise CliError(f"--latency must be one of {', '.join(LATENCY_MODES)}, got {options.latency!r}")
    factor = options.cpu_factor
    if factor is not None and (not math.isfinite(factor) or factor <= 0):
        raise CliError(f"--cpu-factor must be a positive number, got {factor}")
    grace_s = options.grace_s
    if grace_s is not None and (not math.isfinite(grace_s) or grace_s < 0):
        raise CliError(f"--grace must be a number of seconds, 0 or more, got {grace_s}")
    if options.output_lengths is not None:
        _check_output_lengths(options.output_lengths)
    for folder in options.model_config_dirs:
        if not folder.is_dir():
            raise CliError(f"--model-configs: no such folder: {folder}")
    for name, path in (("--trace", options.trace), ("--time-log", options.time_log)):
        if path is not None and not path.resolve().parent.is_dir():
            raise CliError(f"{name}: the folder of {path} does not exist; create it first")
    check_gpu(options.gpu)


def _check_output_lengths(path: Path) -> None:
    from revati.engines.output_lengths import OutputLengthsError, read_output_lengths

    if not path.is_file():
        raise CliError(f"--output-lengths: no such file: {path}")
    try:
        read_output_lengths(path)
    except OutputLengthsError as error:
        raise CliError(f"--output-lengths: {error}") from None


def check_gpu(gpu: str) -> None:
    """Refuse a GPU that no profile describes, or only a broken one."""
    from revati.spec import SpecError, UnknownGpuError, load_spec

    try:
        load_spec(gpu)
    except (UnknownGpuError, SpecError) as error:
        raise CliError(" ".join(str(error).split())) from None


def run_world(
    command: Sequence[str],
    options: RunOptions,
    *,
    run_dir: Path,
    base_env: Mapping[str, str] | None = None,
    clock_options: Sequence[str] = (),
) -> WorldResult:
    """Run `command` to its end under one virtual clock and return what came of it.

    `run_dir` must be private; the caller makes it (`make_run_dir`) and removes it (`remove_run_dir`). If this
    process is killed, the clock ends the run and removes it. `clock_options`: further ones of the timekeeper
    (`python -m revati.clock --help`).
    """
    env = build_environment(options, run_dir, base_env)
    executable = shutil.which(command[0], path=env.get("PATH"))
    if executable is None:
        raise CliError(f"command not found: {command[0]}", exit_code=127)
    started = time.monotonic()
    try:
        exit_code = clock.launch(
            [executable, *command[1:]],
            cpu_time=options.cpu_time,
            cpu_factor=1.0 if options.cpu_factor is None else options.cpu_factor,
            pace=Pace() if options.cpu_time == "charged" and options.cpu_factor is None else None,
            epoch=FREE_EPOCH_S if options.cpu_time == "free" else None,
            time_log=options.time_log,
            exit_when_stuck=options.exit_when_stuck,
            parallel=options.parallel,
            allow_real_time=options.allow_real_time,
            grace_s=options.grace_s,
            env=env,
            run_dir=run_dir,
            remove_run_dir_if_killed=not _keeps_run_dirs(),
            stats_file=run_dir / _STATS_FILE,
            extra=clock_options,
        )
    except clock.ClockError as error:
        raise CliError(f"the virtual clock cannot start: {error}", exit_code=1) from None
    wall_s = time.monotonic() - started
    return WorldResult(
        exit_code=exit_code,
        wall_s=wall_s,
        clock=load_json(run_dir / _STATS_FILE),
        ops=summarize_run_dir(run_dir),
        options=options,
        refusal=refusal.read(run_dir) if exit_code else None,
    )


def remove_run_dir(run_dir: Path, *, keep: bool = False) -> None:
    """Delete the run directory unless the user asked to keep it (REVATI_KEEP_RUN_DIR=1 does so too)."""
    if not keep and not _keeps_run_dirs():
        shutil.rmtree(run_dir, ignore_errors=True)


def _keeps_run_dirs() -> bool:
    return os.environ.get("REVATI_KEEP_RUN_DIR") == "1"
