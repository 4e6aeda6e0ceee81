"""`revati doctor`: the needs of a run, and the factor between two machines' CPUs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from revati.cli.main import run_main
from revati.clock import calibrate


def doctor(capfd: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    code = run_main(["doctor", *words])
    return code, capfd.readouterr().out


def test_every_need_has_its_line(capfd: pytest.CaptureFixture[str]) -> None:
    code, printed = doctor(capfd)
    names = [line[5:].partition(":")[0] for line in printed.splitlines()]
    assert names == ["system", "futex_waitv", "/proc", "/dev/shm", "python", "byte code", "torch", "vllm",
                     "native parts", "GPU profiles", "virtual time"]  # fmt: skip
    failed = [line for line in printed.splitlines() if line.startswith("FAIL")]
    assert code == (1 if failed else 0)


def test_missing_native_parts_and_profiles_are_failures_with_a_next_step(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("REVATI_NATIVE", str(tmp_path))
    monkeypatch.setenv("REVATI_PROFILES", str(tmp_path))
    code, printed = doctor(capfd)
    lines = {line[5:].partition(":")[0]: line for line in printed.splitlines()}
    assert code == 1
    assert lines["native parts"].startswith("FAIL") and "revati-timekeeper" in lines["native parts"]
    assert "pip install" in lines["native parts"]
    assert lines["GPU profiles"].startswith("FAIL")
    assert lines["virtual time"].startswith("FAIL")


def test_what_makes_runs_slow_is_a_note_with_a_next_step(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.dont_write_bytecode", True)
    plain = {"CONFIG_ARGS": "'--with-ensurepip'", "PGO_PROF_USE_FLAG": "-fprofile-use"}
    monkeypatch.setattr("sysconfig.get_config_var", plain.get)
    _, printed = doctor(capfd)
    lines = {line[5:].partition(":")[0]: line for line in printed.splitlines()}
    assert lines["byte code"].startswith("note") and "PYTHONDONTWRITEBYTECODE" in lines["byte code"]
    assert lines["python"].startswith("note") and "a distribution's Python" in lines["python"]
    monkeypatch.setattr("sys.dont_write_bytecode", False)
    asked = plain | {"CONFIG_ARGS": "'--enable-optimizations' '--with-lto'"}
    debian = plain | {"PGO_PROF_USE_FLAG": ""}
    for build in (asked, debian):
        monkeypatch.setattr("sysconfig.get_config_var", build.get)
        _, printed = doctor(capfd)
        assert "ok   byte code: kept" in printed and "ok   python: " in printed


def test_the_factor_is_the_reference_over_this_machine(
    capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    code, printed = doctor(capfd, "--calibrate", "--json")
    here = json.loads(printed)
    assert code == 0 and here["calibration"]["work_s"] > 1e-3
    file = tmp_path / "server.json"
    file.write_text(printed)
    _, again = doctor(capfd, "--calibrate", "--json", "--reference", str(file))
    assert json.loads(again)["reference"] == here["calibration"]
    assert json.loads(again)["cpu_factor"] == pytest.approx(1, abs=0.5)  # the same machine, maybe a busy one
    half_as_long = {**here["calibration"], "work_s": here["calibration"]["work_s"] / 2}
    file.write_text(json.dumps(half_as_long))
    _, fast = doctor(capfd, "--calibrate", "--json", "--reference", str(file))
    measured = json.loads(fast)
    expected = half_as_long["work_s"] / measured["calibration"]["work_s"]
    assert measured["cpu_factor"] == pytest.approx(expected, abs=1e-4)
    assert measured["cpu_factor"] < json.loads(again)["cpu_factor"]


def test_the_work_is_the_same_every_time() -> None:
    assert calibrate.work() == calibrate.work() > 1000


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("not json", "no output of"),
        ("[1]", "no output of"),
        ('{"cpu": "x"}', "no output of"),
        ('{"cpu": "x", "python": "3", "work_s": 0.0, "spread": 0, "workload_version": 1}', "above 0"),
        ('{"cpu": "x", "python": "3", "work_s": "1", "spread": 0, "workload_version": 1}', "above 0"),
        ('{"cpu": "x", "python": "3", "work_s": 1.0, "spread": 0, "workload_version": 99}', "version 99"),
        (None, "no output of"),
    ],
)
def test_a_wrong_reference_is_one_line(
    content: str | None, expected: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "reference.json"
    if content is not None:
        file.write_text(content)
    assert run_main(["doctor", "--calibrate", "--reference", str(file)]) == 2
    printed = capfd.readouterr().err
    assert expected in printed and printed.count("\n") == 1


def test_a_reference_without_calibration_is_refused(capfd: pytest.CaptureFixture[str]) -> None:
    assert run_main(["doctor", "--reference", "x"]) == 2
    assert "--calibrate" in capfd.readouterr().err
