"""The first process of a benchmark's world: server up, client to its end, server down.

Runs inside virtual time (`python -m revati.bench.driver PLAN`), so every wait here is a virtual one. It never
leaves a process behind: the server leads a process group of its own, which is stopped politely, then killed.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType

from revati.bench.client import GO, real_seconds
from revati.bench.plan import CLIENT_LOG, METRICS, SERVER_LOG, STATUS, BenchPlan

_POLL_S = 0.2
EXIT_INTERRUPTED = 130
_EXIT_REFUSED = 2
_CLIENT_GRACE_S = 30.0  # to evaluate what an interrupted load has
_LOG_TAIL_LINES = 25


@dataclass
class Status:
    """How far the run came; times are virtual seconds since the driver started, wall times are real ones."""

    stage: str = "starting"
    error: str | None = None
    server_exit: int | None = None
    client_exit: int | None = None
    ready_s: float | None = None
    client_start_s: float | None = None
    client_end_s: float | None = None
    client_wall_s: float | None = None
    ready_wall_s: float | None = None

    def write(self, run_dir: Path) -> None:
        """Save the status where the outer process reads it."""
        (run_dir / STATUS).write_text(json.dumps(asdict(self), indent=1) + "\n")


class Interrupted(Exception):
    """The user asked to stop."""


class Driver:
    """Carries out one plan."""

    def __init__(self, plan: BenchPlan) -> None:
        self.plan = plan
        self.status = Status()
        self._server: subprocess.Popen[bytes] | None = None
        self._client: subprocess.Popen[bytes] | None = None
        self._begin_s = time.monotonic()
        self._begin_wall_s = real_seconds()

    def run(self) -> int:
        """Run the benchmark to its end; returns the exit code of the world."""
        previous = [
            (number, signal.signal(number, self._on_signal)) for number in (signal.SIGINT, signal.SIGTERM)
        ]
        try:
            self._start_server()
            self._start_client()
            self._wait_ready()
            exit_code = self._run_client()
            self.status.stage = "done" if exit_code == 0 else "client failed"
        except Interrupted:
            self.status.stage, exit_code = "interrupted", EXIT_INTERRUPTED
            self.status.write(self.plan.run_dir)  # should the grace period be too short for the rest
        except ServerFailed as error:
            self.status.stage, self.status.error = "server failed", str(error)
            exit_code = _EXIT_REFUSED if error.refused else 1
        finally:
            _ignore_interrupts()
            self._stop()
            self.status.write(self.plan.run_dir)
            for number, handler in previous:
                signal.signal(number, signal.SIG_IGN if handler is None else handler)
        return exit_code

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        _ignore_interrupts()  # the terminal and the clock may both tell of one
        raise Interrupted

    def _elapsed_s(self) -> float:
        return time.monotonic() - self._begin_s

    def _start_server(self) -> None:
        with open(self.plan.run_dir / SERVER_LOG, "wb") as log:
            self._server = subprocess.Popen(
                self.plan.server_command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _start_client(self) -> None:
        """Its imports take as long as a server's: it makes them meanwhile, and waits at the gate."""
        with open(self.plan.run_dir / CLIENT_LOG, "wb") as log:
            self._client = subprocess.Popen(
                self.plan.client_command, stdin=subprocess.PIPE, stderr=log, start_new_session=True
            )

    def _wait_ready(self) -> None:
        assert self._server is not None
        while not is_healthy(self.plan.base_url):
            code = self._server.poll()
            if code is not None:
                self.status.server_exit = code
                raise ServerFailed(f"the server ended with code {code} before it was ready", refused=code > 0)
            if self._elapsed_s() > self.plan.ready_timeout_s:
                raise ServerFailed(
                    f"the server was not ready after {self.plan.ready_timeout_s:.0f} virtual seconds"
                )
            time.sleep(_POLL_S)
        self.status.ready_s = self._elapsed_s()
        self.status.ready_wall_s = real_seconds() - self._begin_wall_s

    def _run_client(self) -> int:
        self.status.stage = "serving"
        self.status.write(self.plan.run_dir)
        self.status.client_start_s = self._elapsed_s()
        wall_start_s = real_seconds()
        assert self._client is not None and self._client.stdin is not None
        try:
            with suppress(BrokenPipeError), self._client.stdin as gate:  # broken: it has ended, and says why
                gate.write(GO)
            code = self._client.wait()
        finally:
            self.status.client_end_s = self._elapsed_s()
            self.status.client_wall_s = real_seconds() - wall_start_s
        self.status.client_exit = code
        if code != 0 and self._server is not None and self._server.poll() is not None:
            raise ServerFailed(f"the server ended with code {self._server.returncode} under load")
        if code != 0:
            self.status.error = f"the client ended with code {code}"
        return code

    def _stop(self) -> None:
        """End the client, keep the server's metrics, end the server; never raises, never leaves a process."""
        if self._client is not None and self._client.stdin is not None and not self._client.stdin.closed:
            self._client.kill()  # still at the gate
            self._client.wait()
        elif self._client is not None and self._client.poll() is None:
            _end(self._client, (signal.SIGINT, signal.SIGTERM), timeout_s=_CLIENT_GRACE_S)
            self.status.client_exit = self._client.returncode
        if self._server is None:
            return
        if self._server.poll() is None and self.status.ready_s is not None:
            _save_metrics(self.plan.base_url, self.plan.run_dir / METRICS)
        _end(self._server, (signal.SIGINT, signal.SIGTERM), timeout_s=self.plan.stop_timeout_s)
        self.status.server_exit = self._server.returncode
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._server.pid, signal.SIGKILL)  # workers that outlived their server


def _ignore_interrupts() -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


class ServerFailed(Exception):
    """The server ended or never became ready; `refused`: by itself, before it was: it was asked wrongly."""

    def __init__(self, message: str, *, refused: bool = False) -> None:
        super().__init__(message)
        self.refused = refused


def is_healthy(base_url: str) -> bool:
    """Whether the server there answers and is ready."""
    try:
        with urllib.request.urlopen(f"{base_url}/health", timeout=10) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, http.client.HTTPException, OSError):
        return False


def _save_metrics(base_url: str, path: Path) -> None:
    try:
        with urllib.request.urlopen(f"{base_url}/metrics", timeout=30) as response:
            path.write_bytes(response.read())
    except (urllib.error.URLError, http.client.HTTPException, OSError):
        return


def _end(process: subprocess.Popen[bytes], signals: tuple[int, ...], timeout_s: float) -> None:
    for number in signals:
        if process.poll() is not None:
            return
        process.send_signal(number)
        try:
            process.wait(timeout=timeout_s)
            return
        except subprocess.TimeoutExpired:
            continue
    process.kill()
    process.wait()


def log_tail(run_dir: Path, name: str = SERVER_LOG, lines: int = _LOG_TAIL_LINES) -> list[str]:
    """Last lines of the server's (or client's) log."""
    try:
        return (run_dir / name).read_text(errors="replace").splitlines()[-lines:]
    except OSError:
        return []


def environment_for_bench(env: Mapping[str, str]) -> dict[str, str]:
    """Settings that only a benchmark wants: engine statistics in the log every second."""
    return {"VLLM_LOG_STATS_INTERVAL": "1", **env}


def main() -> None:
    """Carry out the plan whose file is the only argument."""
    if len(sys.argv) != 2:
        sys.exit("usage: python -m revati.bench.driver PLAN_FILE")
    sys.exit(Driver(BenchPlan.from_json(Path(sys.argv[1]).read_text())).run())


if __name__ == "__main__":
    main()
