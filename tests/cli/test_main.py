"""What a user sees when a command line is wrong: one line, exit code 2, no traceback."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from revati.cli.main import run_main


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
        (["run", "--gpu", "h100_sxm", "--model-configs", "/no/such/folder", "--", "true"], "no such folder"),
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


def test_the_exit_code_of_the_command_is_ours() -> None:
    argv = ["run", "--gpu", "h100_sxm", "--", sys.executable, "-S", "-c", "raise SystemExit(7)"]
    assert run_main(argv) == 7


def test_a_missing_program_is_named(capfd: pytest.CaptureFixture[str]) -> None:
    assert run_main(["run", "--gpu", "h100_sxm", "--", "no-such-program-here"]) == 127
    assert "no-such-program-here" in capfd.readouterr().err


def test_the_run_directory_is_private_and_removed(capfd: pytest.CaptureFixture[str]) -> None:
    program = "import os; d = os.environ['REVATI_RUN_DIR']; print(oct(os.stat(d).st_mode & 0o777), d)"
    assert run_main(["run", "--gpu", "h100_sxm", "--", sys.executable, "-S", "-c", program]) == 0
    mode, folder = capfd.readouterr().out.split()
    assert mode == "0o700"
    assert not Path(folder).exists()
