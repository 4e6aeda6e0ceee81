"""Start a command in virtual time."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from revati.clock.pace import Pace, PaceTeller

CPU_TIME_MODES = ("charged", "free", "wall")


class ClockError(Exception):
    """The run cannot start; the message says what was expected and the next step."""


def native_dir() -> Path:
    """Folder with the shim and the timekeeper: ``REVATI_NATIVE``, or ``revati/native``."""
    override = os.environ.get("REVATI_NATIVE")
    return Path(override) if override else Path(__file__).resolve().parent.parent / "native"


def _native(name: str) -> Path:
    path = native_dir() / name
    if not path.is_file():
        raise ClockError(f"{path} is missing: build it with `make -C csrc/warp OUT={native_dir()}`")
    return path


def make_run_dir() -> Path:
    """Create the private (0700) directory of one run, in memory where the system has a place for that."""
    memory = Path("/dev/shm")
    parent = memory if os.access(memory, os.W_OK | os.X_OK) else None
    return Path(tempfile.mkdtemp(prefix="revati-", dir=parent))


def timekeeper_argv(
    argv: Sequence[str],
    *,
    run_dir: str | os.PathLike[str],
    cpu_time: str = "charged",
    cpu_factor: float = 1.0,
    pace_fd: int | None = None,
    epoch: float | None = None,
    time_log: str | os.PathLike[str] | None = None,
    exit_when_stuck: bool = False,
    parallel: bool = False,
    allow_real_time: bool = False,
    grace_s: float | None = None,
    stats_file: str | os.PathLike[str] | None = None,
    extra: Sequence[str] = (),
) -> list[str]:
    """The timekeeper's command line for a run of ``argv``."""
    if cpu_time not in CPU_TIME_MODES:
        raise ClockError(f"--cpu-time: got {cpu_time!r}, expected one of {', '.join(CPU_TIME_MODES)}")
    if not cpu_factor > 0:
        raise ClockError(f"--cpu-factor: got {cpu_factor}, expected a number above 0")
    if not argv:
        raise ClockError("no command given; write it after --")
    line = [
        str(_native("revati-timekeeper")),
        *("--shim", str(_native("librevati_warp.so"))),
        *("--run-dir", str(run_dir)),
        *("--cpu-time", cpu_time),
        *("--cpu-factor", repr(float(cpu_factor))),
    ]
    if pace_fd is not None:
        line += ["--pace-fd", str(pace_fd)]
    if epoch is not None:
        line += ["--epoch", repr(float(epoch))]
    if time_log is not None:
        line += ["--time-log", str(time_log)]
    if stats_file is not None:
        line += ["--stats", str(stats_file)]
    if grace_s is not None:
        line += ["--grace", repr(float(grace_s))]
    switches = {
        "--exit-when-stuck": exit_when_stuck,
        "--parallel": parallel,
        "--allow-real-time": allow_real_time,
    }
    line += [name for name, wanted in switches.items() if wanted]
    return [*line, *extra, "--", *map(str, argv)]


def launch(
    argv: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    run_dir: str | os.PathLike[str] | None = None,
    remove_run_dir_if_killed: bool = False,
    extra: Sequence[str] = (),
    pace: Pace | None = None,
    **options: Any,
) -> int:
    """Run ``argv`` and all its children in one virtual time and return the command's exit code.

    Signals are passed on to the command. The timekeeper writes one closing line to stderr and, where
    ``stats_file`` is given, statistics that :func:`revati.clock.stats.read_stats` reads.
    With ``pace`` the factor of charged work is that of the pace and follows it.
    ``options`` are those of :func:`timekeeper_argv`; ``extra`` are further options of the timekeeper.
    When this process is killed the run ends too; with ``remove_run_dir_if_killed`` (always, where no
    ``run_dir`` is given) the timekeeper then removes the directory.

    Raises:
        ClockError: an argument makes no sense, or the native parts are not built.
    """
    own_dir = run_dir is None
    folder = make_run_dir() if run_dir is None else Path(run_dir)
    own_options = ["--launcher", str(os.getpid())]
    teller = None
    if pace is not None:
        teller = PaceTeller(pace)
        options |= {"cpu_factor": pace.factor, "pace_fd": teller.read_fd}
    if own_dir or remove_run_dir_if_killed:
        own_options.append("--remove-run-dir")
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        (folder / "clock").unlink(missing_ok=True)
        line = timekeeper_argv(argv, run_dir=folder, extra=[*own_options, *extra], **options)
        return _wait(line, dict(os.environ if env is None else env), teller)
    except OSError as error:
        raise ClockError(f"cannot start the run in {folder}: {error}") from error
    finally:
        if teller is not None:
            teller.stop()
        if own_dir:
            shutil.rmtree(folder, ignore_errors=True)


def _wait(line: list[str], env: dict[str, str], teller: PaceTeller | None) -> int:
    """Run the timekeeper, pass signals on, return its exit code."""
    forwarded = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
    process: subprocess.Popen[bytes] | None = None

    def forward(number: int, _frame: object) -> None:
        if process is not None:
            process.send_signal(number)

    main_thread = True
    old = {}
    try:
        for number in forwarded:
            old[number] = signal.signal(number, forward)
        # The terminal sends its own to the whole group: the command decides what it means.
        for number in (signal.SIGINT, signal.SIGQUIT):
            old[number] = signal.signal(number, lambda *_: None)
    except ValueError:  # not the main thread: signals are the caller's business
        main_thread = False
    try:
        process = subprocess.Popen(line, env=env, pass_fds=() if teller is None else (teller.read_fd,))
        if teller is not None:
            teller.start()
        code = process.wait()
    finally:
        if main_thread:
            for number, handler in old.items():
                signal.signal(number, handler)
    return code if code >= 0 else 128 - code
