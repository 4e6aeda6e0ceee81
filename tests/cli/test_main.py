"""What a user sees when a command line is wrong: one line, exit code 2, no traceback."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import venv
from pathlib import Path

import pytest

from revati.cli.main import run_main
from revati.spec import profiles_dir

SERVE = ["run", "--gpu", "h100_sxm", "--", "vllm", "serve", "some/model"]


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["run", "--gpu", "h100_sxm"], "COMMAND is missing"),
        (["run", "--", "true"], "--gpu is missing"),
        (["run", "--gpu", "no_such_gpu", "--", "true"], "no_such_gpu"),
        (["run", "--gpu", "h100_sxm", "--gpus", "0", "--", "true"], "--gpus must be at least 1"),
        (["run", "--gpu", "h100_sxm", "--gpus", "many", "--", "true"], "--gpus"),
        (["run", "--gpu", "h100_sxm", "--cpu-time", "fast", "--", "true"], "charged, free, wall"),
        (["run", "--gpu", "h100_sxm", "--cpu-factor", "0", "--", "true"], "--cpu-factor"),
        (["run", "--gpu", "h100_sxm", "--latency", "magic", "--", "true"], "--latency"),
        (["run", "--gpu", "h100_sxm", "--trace", "/no/such/folder/t.json", "--", "true"], "--trace"),
        (["run", "--gpu", "h100_sxm", "--output-lengths", "/no/such/file", "--", "true"], "no such file"),
        (["run", "--gpu", "h100_sxm", "--output-lengths", __file__, "--", "true"], "line 1: expected {"),
        (["run", "--gpu", "h100_sxm", "--model-configs", "/no/such/folder", "--", "true"], "no such folder"),
        (["run", "--gpu", "h100_sxm", "--grace", "-1", "--", "true"], "--grace"),
        (["run", "--gpu", "h100_sxm", "--grace", "soon", "--", "true"], "--grace"),
        ([*SERVE, "-tp", "2", "--pipeline-parallel-size=2"], "needs 4 GPUs, and there is 1; run with"),
        ([*SERVE, "--data_parallel_size", "3"], "--data-parallel-size 3 needs 3 GPUs"),
        (["run", "--no-such-option", "--", "true"], "--no-such-option"),
        (["models", "path", "nobody/nothing"], "unknown model"),
        (["no-such-command"], "no-such-command"),
        (["bench", "vllm", "--model", "x"], "--gpu is missing"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    argv: list[str], expected: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run_main(argv) == 2
    printed = capfd.readouterr().err
    assert expected in printed
    assert printed.startswith("revati: ") and printed.count("\n") == 1


def test_a_token_id_that_is_no_number_is_refused_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("REVATI_TOKEN_ID", "x")
    assert run_main(["run", "--gpu", "h100_sxm", "--", sys.executable, "-c", "import torch"]) == 2
    last = capfd.readouterr().err.splitlines()[-1]
    assert last.startswith("revati: ") and "REVATI_TOKEN_ID=x: expected a token's number" in last


def test_ids_made_of_the_time_are_unique_where_time_stands(capfd: pytest.CaptureFixture[str]) -> None:
    """With a Python that uses libuuid, as distributions' do: 20 of 500 were not."""
    program = "import torch, uuid; print(len({uuid.uuid1().int >> 64 for _ in range(500)}))"
    argv = ["run", "--gpu", "h100_sxm", "--cpu-time", "free", "--", sys.executable, "-c", program]
    assert run_main(argv) == 0
    assert capfd.readouterr().out.splitlines()[-1] == "500"


@pytest.mark.parametrize("given", [True, False])
def test_a_server_on_a_taken_port_is_refused(given: bool, capfd: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0 if given else 8000))
        other.listen()
        port = other.getsockname()[1]
        assert run_main([*SERVE, *(["--host", "127.0.0.1", f"--port={port}"] if given else [])]) == 2
    assert f"port {port} on " in capfd.readouterr().err


def test_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("revati ")


def test_models_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_main(["models"]) == 0
    printed = capsys.readouterr().out
    assert "meta-llama/Llama-3.1-8B-Instruct" in printed
    assert "RedHatAI/Llama-3.3-70B-Instruct-FP8-dynamic" in printed


def test_run_waits_in_virtual_time_and_reports_it(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    report = tmp_path / "report.json"
    command = [
        sys.executable,
        "-S",
        "-c",
        "import time; t = time.time(); time.sleep(60); print(time.time() - t)",
    ]
    argv = ["run", "--gpu", "h100_sxm", "--cpu-time", "free", "--report", str(report), "--", *command]
    assert run_main(argv) == 0
    assert float(capfd.readouterr().out) == pytest.approx(60.0, abs=0.01)
    written = json.loads(report.read_text())
    assert written["gpu"] == "h100_sxm" and written["cpu_time"] == "free"
    assert written["virtual_time_s"] == pytest.approx(60.0, abs=0.1)
    assert written["wall"]["speed_up"] > 5


def run_plainly(*words: str) -> int:
    return run_main(["run", "--gpu", "h100_sxm", "--cpu-time", "free", *words])


def test_a_run_without_deadlines_stands_until_somebody_outside_acts_or_ends_if_asked(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """An idle server whose clients are outside the run must not be ended."""
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    program = f"import os; os.read(os.open({str(gate)!r}, os.O_RDWR), 1)"
    command = [sys.executable, "-S", "-c", program]
    opener = threading.Timer(7.0, lambda: gate.write_bytes(b"x"))
    opener.start()
    assert run_plainly("--", *command) == 0
    assert "virtual time stands" in capfd.readouterr().err
    opener.join()
    assert run_plainly("--exit-when-stuck", "--", *command) == 3
    assert "ending with code 3" in capfd.readouterr().err


def test_the_grace_period_reaches_the_clock(tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    program = f"""
import signal, threading
signal.signal(signal.SIGTERM, signal.SIG_IGN); open({str(ready)!r}, "w").close()
threading.Event().wait()"""
    line = [sys.executable, "-m", "revati.cli.main", "run", "--gpu", "h100_sxm", "--grace", "0.5"]
    run = subprocess.Popen([*line, "--", sys.executable, "-S", "-c", program])
    while not ready.exists():
        assert run.poll() is None
        time.sleep(0.02)
    begin_s = time.monotonic()
    run.terminate()
    assert run.wait(timeout=20) == 128 + signal.SIGKILL
    assert time.monotonic() - begin_s < 5


def test_threads_run_one_at_a_time_unless_asked(tmp_path: Path) -> None:
    """Two threads that each compute for a while without a wait: side by side only with --parallel."""
    program = """
import os, time
def stretch():
    begin = os.times().elapsed; end = time.thread_time() + 0.15
    while time.thread_time() < end: pass
    return begin, os.times().elapsed
r, w = os.pipe()
if os.fork() == 0:
    os.write(w, repr(stretch()).encode()); os._exit(0)
mine = stretch(); other = eval(os.read(r, 99))
raise SystemExit(5 if mine[0] < other[1] and other[0] < mine[1] else 0)"""
    command = [sys.executable, "-S", "-c", program]
    assert run_plainly("--", *command) == 0
    assert run_plainly("--parallel", "--", *command) == 5


def test_a_static_program_needs_permission(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    source, static = tmp_path / "s.c", tmp_path / "s"
    source.write_text("int main(){return 5;}")
    if subprocess.run(["gcc", "-static", "-o", static, source], capture_output=True).returncode:
        pytest.skip("no static libc")
    assert run_plainly("--", str(static)) == 2
    assert "--allow-real-time" in capfd.readouterr().err
    assert run_plainly("--allow-real-time", "--", str(static)) == 5


def test_the_exit_code_of_the_command_is_ours() -> None:
    argv = ["run", "--gpu", "h100_sxm", "--", sys.executable, "-S", "-c", "raise SystemExit(7)"]
    assert run_main(argv) == 7


def test_a_client_in_an_environment_without_torch_runs(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Load generators have environments of their own; libraries of theirs try whether there is a torch."""
    venv.create(tmp_path / "client", with_pip=False)
    client = tmp_path / "client" / "bin" / "python"
    code = "import time\ntry:\n import torch\nexcept ModuleNotFoundError as e:\n time.sleep(60); print(e)"
    assert run_main(["run", "--gpu", "h100_sxm", "--", str(client), "-c", code]) == 0
    written = capfd.readouterr()
    assert "No module named 'torch'" in written.out and "torch" not in written.err


def test_a_client_with_a_torch_of_its_own_runs_without_the_virtual_gpu(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("")
    (tmp_path / "torch" / "version.py").write_text("__version__ = '2.9.0'\n")
    code = f"import sys, time; sys.path.insert(0, {str(tmp_path)!r}); import torch; time.sleep(60)"
    client = [sys.executable, "-c", code]
    assert run_main(["run", "--gpu", "h100_sxm", "--", *client]) == 2
    assert "built for torch 2.13.0" in capfd.readouterr().err.splitlines()[-1]
    assert run_main(["run", "--gpu", "h100_sxm", "--", "env", "-u", "REVATI_IDENTITY", *client]) == 0
    assert "virtual 60." in capfd.readouterr().err


def test_a_missing_program_is_named(capfd: pytest.CaptureFixture[str]) -> None:
    assert run_main(["run", "--gpu", "h100_sxm", "--", "no-such-program-here"]) == 127
    assert "no-such-program-here" in capfd.readouterr().err


def last_line_of_a_run(capfd: pytest.CaptureFixture[str], *words: str) -> str:
    assert run_plainly(*words) == 2
    return capfd.readouterr().err.splitlines()[-1]


def test_an_op_without_a_model_is_the_last_word_of_a_strict_run(capfd: pytest.CaptureFixture[str]) -> None:
    program = """
import torch
from revati import _C
_C.launch("_Z::mystery", ["x"], torch.ones(1 << 20, device="cuda"), device=0)"""
    last = last_line_of_a_run(capfd, "--strict", "--", sys.executable, "-c", program)
    assert last.startswith("revati: --strict: _Z::mystery: no model of family")
    assert run_plainly("--", sys.executable, "-c", program) == 0


def test_an_op_without_a_shape_rule_is_the_last_word_of_a_run(capfd: pytest.CaptureFixture[str]) -> None:
    program = """
import torch
library = torch.library.Library("revati_test", "DEF")
library.define("mystery(Tensor x) -> Tensor")
torch.ops.revati_test.mystery(torch.ones(2, 3, device="cuda"))"""
    last = last_line_of_a_run(capfd, "--", sys.executable, "-c", program)
    assert last.startswith("revati: op 'revati_test::mystery' has no shape rule")
    caught = program.replace("torch.ops", "try: torch.ops") + "\nexcept NotImplementedError: pass"
    assert run_plainly("--", sys.executable, "-c", caught) == 0


def test_a_thread_that_sleeps_off_modelled_work_lets_others_run() -> None:
    program = """
import threading, time, torch
from revati import _C
go, woken = threading.Event(), []
other = threading.Thread(target=lambda: (go.wait(), woken.append(time.monotonic())))
other.start(); time.sleep(0.01)
begin = time.monotonic(); go.set()
for _ in range(40): _C.charge_ns(100_000)
other.join()
raise SystemExit(5 if woken[0] - begin > 0.0005 else 0)"""
    assert run_plainly("--", sys.executable, "-c", program) == 0


def stands_for(name: str, version: str, folder: Path) -> Path:
    """A folder for PYTHONPATH in which package `name` seems to be installed in another version."""
    for path, text in (
        (folder / name / "version.py", f"__version__ = '{version}'\n"),
        (folder / name / "__init__.py", ""),
        (folder / f"{name}-{version}.dist-info" / "METADATA", f"Name: {name}\nVersion: {version}\n"),
    ):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return folder


def test_a_torch_that_the_backend_was_not_built_for_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(stands_for("torch", "2.12.0", tmp_path)), prepend=os.pathsep)
    last = last_line_of_a_run(capfd, "--", sys.executable, "-c", "import torch")
    assert "built for torch 2.13" in last and "the installed one is torch 2.12.0" in last


def test_a_broken_spec_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine").mkdir()
    shipped = (profiles_dir() / "h100_sxm" / "spec.yaml").read_text()
    broken = shipped.replace("id: h100_sxm", "id: mine").replace("  bf16: 720.0e+12", "  bf61: 720.0e+12")
    (tmp_path / "mine" / "spec.yaml").write_text(broken)
    monkeypatch.setenv("REVATI_PROFILES", str(tmp_path))
    assert run_main(["run", "--gpu", "mine", "--", "true"]) == 2
    printed = capfd.readouterr().err
    assert "spec.yaml: sustained_flops" in printed and "bf61" in printed and printed.count("\n") == 1


def test_a_vllm_of_another_version_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """By the plug-in too, for `revati run`: vLLM would pass over an exception and go on without it."""
    folder = stands_for("vllm", "0.29.1", tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(folder), prepend=os.pathsep)
    program = "from revati.engines.vllm import register_platform as r\ntry: r()\nexcept Exception: pass"
    assert "vLLM 0.29.1 is not supported, expected 0.30.x, 0.31.x or 0.32.x" in last_line_of_a_run(
        capfd, "--", sys.executable, "-c", program
    )
    monkeypatch.syspath_prepend(folder)
    assert run_main(["bench", "vllm", "--gpu", "h100_sxm", "--model", "some/model"]) == 2
    printed = capfd.readouterr().err
    assert "vLLM 0.29.1 is not supported" in printed and printed.count("\n") == 1


def test_the_run_directory_is_private_and_removed(capfd: pytest.CaptureFixture[str]) -> None:
    program = "import os; d = os.environ['REVATI_RUN_DIR']; print(oct(os.stat(d).st_mode & 0o777), d)"
    assert run_main(["run", "--gpu", "h100_sxm", "--", sys.executable, "-S", "-c", program]) == 0
    mode, folder = capfd.readouterr().out.split()
    assert mode == "0o700"
    assert not Path(folder).exists()
