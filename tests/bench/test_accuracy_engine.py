"""The accuracy harness with a real server: points that share one, and a signal in the middle."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.accuracy.case import Case, Measured, Point, Series, Workload
from benchmarks.accuracy.runner import Variant, run_one_server

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(600)]


def test_points_of_one_server_find_cached_prompts_of_each_repeat() -> None:
    points = [Point(id=name, concurrency=1, measured=Measured()) for name in ("first", "again")]
    two_layers = ["--hf-overrides", '{"num_hidden_layers": 2}', "--max-model-len", "8192", "--ignore-eos"]
    series = Series(
        id="shared",
        gpu="h100_sxm",
        model="Qwen/Qwen3-8B",
        measured_engine="none",
        source="none",
        client="http",
        one_server=True,
        flags=two_layers,
        workload=Workload(kind="random", prompts=4, input_tokens=4000, output_tokens=4, seed=1, repeats=3),
        points=points,
    )
    cases = [Case(series=series, point=point) for point in points]
    outcomes = run_one_server(cases, Variant(cpu_time="free"))
    first, again = (one.predicted["ttft_ms.p50"] for one in outcomes)
    # the median of three: prompts of one repeat are new to the next, and known to the same of the next point
    assert again < 0.5 * first


def test_an_interrupted_case_is_the_last(tmp_path: Path) -> None:
    words = ["h100-qwen3-0.6b", "--json", str(tmp_path / "results.json"), "--logs", str(tmp_path / "logs")]
    harness = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.accuracy", *words],
        cwd=Path(__file__).parents[2],
        stderr=subprocess.PIPE,
        text=True,
    )
    time.sleep(8)  # its server is starting
    harness.terminate()
    _, said = harness.communicate(timeout=60)
    assert harness.returncode == 130
    assert "accuracy: interrupted in h100-qwen3-0.6b-" in said.splitlines()[-1]
    assert len(list((tmp_path / "logs").iterdir())) == 1
