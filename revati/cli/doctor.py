"""`revati doctor`: is everything here that a run needs, and how fast is this machine's CPU?"""

from __future__ import annotations

import ctypes
import errno
import importlib.util
import json
import os
import platform
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated

import typer

from revati.cli.errors import CliError
from revati.engines.vllm import versions

_SYS_FUTEX_WAITV = 449
_WANTED = {"torch": "2.13.0", "vllm": versions.NEWEST}
_SLEEP_S = 3600


@dataclass(frozen=True)
class Finding:
    """One line of the report. One that is not `ok` says what to do next; only a `need` fails the command."""

    name: str
    ok: bool
    detail: str
    need: bool = True

    def line(self) -> str:
        """The line as printed."""
        return f"{'ok  ' if self.ok else 'FAIL' if self.need else 'note'} {self.name}: {self.detail}"


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("doctor")(doctor)


def doctor(
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="Measure this CPU and print the --cpu-factor for a run here.")
    ] = False,
    reference: Annotated[
        Path | None,
        typer.Option(help="Output of `revati doctor --calibrate --json` on the server to emulate."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of lines.")] = False,
) -> int:
    """Check what a run needs, one line each; exit code 1 if a need is not met."""
    if reference is not None and not calibrate:
        raise CliError("--reference needs --calibrate: it is what this machine is compared with")
    calibration = _calibrate(reference) if calibrate else {}
    findings = list(check_all())
    if as_json:
        rows = [asdict(finding) for finding in findings]
        print(json.dumps({"checks": rows, **calibration}, indent=1))
    else:
        for finding in findings:
            print(finding.line())
        if calibration:
            print(_calibration_text(calibration))
    return 0 if all(finding.ok for finding in findings if finding.need) else 1


def check_all() -> Iterator[Finding]:
    """Every check, in the order in which a failure explains those after it."""
    for check in _CHECKS:
        yield check()


def _check_kernel() -> Finding:
    name = f"Linux {platform.release()}, {platform.machine()}, {' '.join(platform.libc_ver())}"
    if sys.platform != "linux" or platform.machine() != "x86_64" or platform.libc_ver()[0] != "glibc":
        return Finding("system", False, f"{name}; Linux on x86-64 with glibc is needed")
    return Finding("system", True, name)


def _check_futex() -> Finding:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall(_SYS_FUTEX_WAITV, None, 0, 0, None, 0)
    if ctypes.get_errno() == errno.ENOSYS:
        return Finding("futex_waitv", False, "missing; Linux 5.16 or later is needed")
    return Finding("futex_waitv", True, "there")


def _check_proc() -> Finding:
    if not os.access("/proc/self/schedstat", os.R_OK):
        detail = "/proc/self/schedstat is missing; mount /proc, or use a kernel with CONFIG_SCHED_INFO"
        return Finding("/proc", False, detail)
    try:
        Path("/proc/self/syscall").read_text()
    except OSError:
        detail = "/proc/<pid>/syscall may not be read here; jumps take 100 us more (allow ptrace to mend it)"
        return Finding("/proc", False, detail, need=False)
    return Finding("/proc", True, "schedstat and syscall can be read")


def _check_memory() -> Finding:
    folder = Path("/dev/shm")
    if not os.access(folder, os.W_OK | os.X_OK):
        return Finding("/dev/shm", False, "not writable; runs use the temporary folder", need=False)
    free = os.statvfs(folder)
    mib = free.f_bavail * free.f_frsize >> 20
    if mib < 64:
        return Finding("/dev/shm", False, f"{mib} MiB free; 64 are needed (docker run --shm-size=1g)")
    return Finding("/dev/shm", True, f"{mib} MiB free")


def _check_python() -> Finding:
    name = f"{platform.python_version()}, {sys.executable}"
    if not _is_python_optimised():
        detail = f"{name}: built without profile-guided optimisation; a distribution's Python is faster"
        return Finding("python", False, detail, need=False)
    return Finding("python", True, name)


def _is_python_optimised() -> bool:
    """Debian's packages call the profiled build by hand, and empty the flags for it in what they keep."""
    asked = "--enable-optimizations" in (sysconfig.get_config_var("CONFIG_ARGS") or "")
    return asked or not sysconfig.get_config_var("PGO_PROF_USE_FLAG")


def _check_byte_code() -> Finding:
    if sys.dont_write_bytecode:
        detail = "not kept: every process of a run compiles all it imports; unset PYTHONDONTWRITEBYTECODE"
        return Finding("byte code", False, detail, need=False)
    return Finding("byte code", True, "kept")


def _check_package(name: str, need: bool) -> Finding:
    wanted = _WANTED[name]
    try:
        found = version(name)
    except PackageNotFoundError:
        return Finding(name, False, f"not installed; pip install {name}=={wanted}", need)
    fits = versions.refusal(found) is None if name == "vllm" else found.partition("+")[0] == wanted
    if not fits:
        return Finding(
            name, False, f"{found}; Revati was built for {wanted}: pip install {name}=={wanted}", need
        )
    return Finding(name, True, found)


def _check_torch() -> Finding:
    return _check_package("torch", need=True)


def _check_vllm() -> Finding:
    return _check_package("vllm", need=False)


def _check_libraries() -> Finding:
    from revati.cli.environment import stub_dirs
    from revati.clock.launch import native_dir

    stubs = stub_dirs()[0]
    parts = [native_dir() / "librevati_warp.so", native_dir() / "revati-timekeeper"]
    parts += [stubs / name for name in ("libcuda.so.1", "libtorch_cuda.so", "libc10_cuda.so")]
    missing = [part.name for part in parts if not part.is_file()]
    if importlib.util.find_spec("revati._C") is None:
        missing.append("revati._C")
    if missing:
        detail = f"{', '.join(missing)} missing; pip install --no-build-isolation --no-deps -e ."
        return Finding("native parts", False, detail)
    return Finding("native parts", True, "built")


def _check_profiles() -> Finding:
    from revati.spec import SpecError, list_gpus, load_spec

    try:
        names = list_gpus()
        for name in names:
            load_spec(name)
    except (SpecError, OSError) as error:
        return Finding("GPU profiles", False, " ".join(str(error).split()))
    if not names:
        return Finding("GPU profiles", False, "none; check REVATI_PROFILES, or install Revati again")
    return Finding("GPU profiles", True, ", ".join(names))


def _check_clock() -> Finding:
    """The one check that tries the whole clock."""
    line = [sys.executable, "-m", "revati.clock", "--cpu-time", "free", "--quiet", "--"]
    begin_s = time.monotonic()
    try:
        done = subprocess.run([*line, "sleep", str(_SLEEP_S)], capture_output=True, text=True, timeout=30)
    except subprocess.TimeoutExpired:
        return Finding("virtual time", False, "a sleep of an hour did not end within 30 s; see docs/time.md")
    took_s = time.monotonic() - begin_s
    if done.returncode != 0:
        return Finding("virtual time", False, " ".join(done.stderr.split()) or f"code {done.returncode}")
    return Finding("virtual time", True, f"a sleep of an hour took {took_s:.2f} s")


_CHECKS: tuple[Callable[[], Finding], ...] = (
    _check_kernel,
    _check_futex,
    _check_proc,
    _check_memory,
    _check_python,
    _check_byte_code,
    _check_torch,
    _check_vllm,
    _check_libraries,
    _check_profiles,
    _check_clock,
)


def _calibrate(reference: Path | None) -> dict[str, object]:
    from revati.clock import calibrate

    try:
        wanted = calibrate.REFERENCE if reference is None else calibrate.read_calibration(reference)
    except calibrate.CalibrationError as error:
        raise CliError(f"--reference: {error}") from None
    found = calibrate.calibrate()
    return {
        "calibration": asdict(found),
        "reference": asdict(wanted),
        "cpu_factor": round(calibrate.cpu_factor(found, wanted), 4),
        "load_average": os.getloadavg()[0],
    }


def _calibration_text(calibration: dict[str, object]) -> str:
    from revati.clock.calibrate import Calibration

    found, wanted = (Calibration(**calibration[key]) for key in ("calibration", "reference"))  # type: ignore[arg-type]
    lines = [
        f"this machine: {found.cpu}, Python {found.python}: {found.work_s * 1e3:.2f} ms "
        f"(middle half within {found.spread:.0%})",
        f"reference:    {wanted.cpu}, Python {wanted.python}: {wanted.work_s * 1e3:.2f} ms",
        f"--cpu-factor {calibration['cpu_factor']}",
    ]
    if found.spread > 0.1:
        lines.append("the repeats differ much: this machine is busy, so measure again when it is idle")
    if found.python != wanted.python:
        lines.append("the Python versions differ: the factor holds the interpreter's speed too")
    return "\n".join(lines)
