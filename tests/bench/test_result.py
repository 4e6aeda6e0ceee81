"""From what a run leaves behind to the result file and the report page."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from revati.bench.client import TIMES
from revati.bench.engine_log import counters, read_engine, read_samples, request_parts_ms, root_cause
from revati.bench.notes import of_run
from revati.bench.plan import CLIENT_RESULT, METRICS, SERVER_LOG, STATUS, BenchPlan
from revati.bench.result import collect, without_wall_clock
from revati.cli.environment import RunOptions
from revati.cli.world import WorldResult
from revati.report.html import render, windowed_percentiles
from revati.report.ops import summarize_run_dir
from revati.report.summary import print_run_summary, run_block

_STATS = "Avg prompt throughput: 10.5 tokens/s, Avg generation throughput: 20.0 tokens/s, "
LOG = (
    "(EngineCore pid=1) INFO 11-23 20:34:01 [core.py:120] "
    "Initializing a V1 LLM engine (v0.32.0) with config: model='m', tp=1\n"
    "(EngineCore pid=1) INFO 11-23 20:34:05 [kv_cache_utils.py:1] GPU KV cache size: 41,408 tokens\n"
    f"(APIServer pid=1) INFO 11-23 23:59:59 [loggers.py:257] Engine 000: {_STATS}"
    "Running: 3 reqs, Waiting: 1 reqs, GPU KV cache usage: 12.5%, Prefix cache hit rate: 0.0%\n"
    f"(APIServer pid=1) INFO 11-24 00:00:01 [loggers.py:257] Engine 000: {_STATS}"
    "Running: 0 reqs, Waiting: 0 reqs, GPU KV cache usage: 0.0%, Prefix cache hit rate: 0.0%\n"
)
METRICS_PAGE = """# HELP x
vllm:request_queue_time_seconds_sum{engine="0",model_name="m"} 1.0
vllm:request_queue_time_seconds_count{engine="0",model_name="m"} 4.0
vllm:generation_tokens_total{engine="0"} 100.0
vllm:request_success_total{engine="0",finished_reason="stop"} 3.0
vllm:request_success_total{engine="1",finished_reason="stop"} 2.0
vllm:request_success_total{engine="0",finished_reason="length"} 1.0
vllm:request_success_total{engine="0",finished_reason="abort"} 0.0
vllm:generation_tokens_total{engine="1"} 50.0
vllm:cache_config_info{block_size="16",num_gpu_blocks="2588"} 1.0
"""


@pytest.fixture
def finished(tmp_path: Path) -> tuple[BenchPlan, WorldResult]:
    (tmp_path / SERVER_LOG).write_text(LOG)
    (tmp_path / METRICS).write_text(METRICS_PAGE)
    client = {
        "model_id": "m",
        "completed": 2,
        "duration": 5.0,
        "mean_ttft_ms": 10.0,
        "mean_tpot_ms": 2.0,
        "start_times": [100.0, 101.0],
        "ttfts": [0.01, 0.02],
        "itls": [[0.002, 0.003], [0.002]],
        "generated_texts": ["a", "b"],
    }
    (tmp_path / CLIENT_RESULT).write_text(json.dumps(client))
    times = {"ready_s": 3.0, "client_start_s": 3.0, "client_end_s": 9.0, "client_wall_s": 4.0}
    (tmp_path / TIMES).write_text(json.dumps({"load_s": 6.0, "load_wall_s": 2.0}))
    (tmp_path / STATUS).write_text(json.dumps({"stage": "done", **times}))
    for pid, rank in ((11, 0), (12, 1)):
        ops = [
            {"name": "aten::mm", "family": "gemm", "confidence": "in_range", "count": 2, "total_ns": 900},
            {"name": "x::y", "family": "other", "confidence": "roofline", "count": 1, "total_ns": 100},
        ]
        report = {
            "pid": pid,
            "process": "worker",
            "rank": rank,
            "gpu": "h100_sxm",
            "device_busy_ns": 1000,
            "ops": ops,
        }
        (tmp_path / f"ops-{pid}.json").write_text(json.dumps(report))
    (tmp_path / "ops-13.json").write_text('{"pid": 13, "ops": [')
    plan = BenchPlan(
        "m", 2, ["p", "-m", "v", "serve", "--port", "81"], ["p", "-m", "v"], "http://h:81", tmp_path
    )
    world = WorldResult(0, 4.0, {"virtual_s": 12.0}, summarize_run_dir(tmp_path), RunOptions("h100_sxm", 2))
    return plan, world


def test_the_block_says_where_the_time_went(finished: tuple[BenchPlan, WorldResult]) -> None:
    block = collect(*finished).block
    assert [(row["family"], row["share"]) for row in block["predicted_time_by_family"]] == [
        ("gemm", 0.9),
        ("other", 0.1),
    ]
    assert block["confidence_share"]["roofline"] == pytest.approx(0.1)
    assert block["device_busy_ns"] == {"worker/0": 1000, "worker/1": 1000}
    assert block["unreadable_reports"] == ["ops-13.json"]
    assert block["engine"]["num_gpu_blocks"] == 2588
    assert block["wall"]["serving_speed_up"] == pytest.approx(3.0)
    assert block["server_arguments"] == ["serve", "--port", "$PORT"]


def test_detail_reaches_the_file_only_on_request(finished: tuple[BenchPlan, WorldResult]) -> None:
    result = collect(*finished)
    assert "ttfts" not in json.loads(result.to_json(detailed=False))
    assert "ttfts" in json.loads(result.to_json(detailed=True))


def test_an_interrupted_run_still_has_a_block(finished: tuple[BenchPlan, WorldResult]) -> None:
    plan, world = finished
    (plan.run_dir / CLIENT_RESULT).unlink()
    result = collect(plan, world)
    written = json.loads(result.to_json(detailed=False))
    assert list(written) == ["revati"]
    assert written["revati"]["engine_counters"] == {"generation_tokens": 150.0, "finished_requests": 6.0}
    assert written["revati"]["finish_reasons"] == {"length": 1, "stop": 5}


def test_only_the_wall_clock_differs_between_equal_runs(finished: tuple[BenchPlan, WorldResult]) -> None:
    plan, world = finished
    first = collect(plan, world).to_json(detailed=True)
    later = collect(plan, replace(world, wall_s=9.0)).to_json(detailed=True)
    assert later != first
    assert without_wall_clock(later) == without_wall_clock(first)
    (plan.run_dir / CLIENT_RESULT).write_text(json.dumps({"duration": 5.000000001}))
    assert without_wall_clock(collect(plan, world).to_json(detailed=True)) != without_wall_clock(first)


def test_a_refusal_of_revati_explains_a_failure(finished: tuple[BenchPlan, WorldResult]) -> None:
    plan, world = finished
    (plan.run_dir / STATUS).write_text(json.dumps({"stage": "server failed", "error": "it ended"}))
    with (plan.run_dir / SERVER_LOG).open("a") as log:
        log.write("RuntimeError: something that follows from it\n")
    assert collect(plan, world).error == "it ended: RuntimeError: something that follows from it"
    refused = collect(plan, replace(world, refusal="--strict: no model of x"))
    assert refused.error == "--strict: no model of x" and refused.explained


def test_notes_tell_what_the_figures_rest_on(tmp_path: Path) -> None:
    lengths = tmp_path / "lengths.jsonl"
    lengths.write_text('{"output_tokens": 5}\n' * 3)
    client = {"completed": 3, "failed": 1}
    short, *_ = (n for n in of_run(RunOptions("h100_sxm", output_lengths=lengths), client) if "lines" in n)
    assert short.startswith("--output-lengths has 3 lines for 4 requests")
    assert of_run(RunOptions("h100_sxm", latency="roofline"), client) == []
    assert of_run(RunOptions("h100_sxm", output_lengths=lengths, latency="roofline"), {"completed": 3}) == []
    slow = of_run(RunOptions("b200_sxm"), client, ["aten::mm", "flashinfer::bmm_fp8"])
    assert any("--linear-backend cutlass" in note for note in slow)
    assert not any("bmm_fp8" in note for note in of_run(RunOptions("b200_sxm"), client, ["aten::mm"]))


def test_the_root_cause_is_the_engine_cores_own() -> None:
    log = (
        "(EngineCore pid=7) ERROR 11-23 21:30:53 [core.py:9] ValueError: No available memory for the cache\n"
        "(APIServer pid=5) Traceback (most recent call last):\n"
        "(APIServer pid=5) RuntimeError: Engine core initialization failed\n"
    )
    assert root_cause(log) == "ValueError: No available memory for the cache"
    assert root_cause("RuntimeError: port in use\n") == "RuntimeError: port in use"
    assert root_cause("all is well\n") is None


def test_the_engines_words_are_read() -> None:
    first, second = read_samples(LOG)
    assert (first.running, first.waiting, first.kv_usage_percent) == (3, 1, 12.5)
    assert second.second == 2  # past midnight
    engine = read_engine(LOG, METRICS_PAGE)
    assert engine["kv_cache_tokens"] == 41408
    assert engine["config"].startswith("model='m'")
    assert request_parts_ms(METRICS_PAGE) == {"queue": 250.0}
    assert counters(METRICS_PAGE)["generation_tokens"] == 150.0


def test_the_page_holds_every_part_and_no_link(finished: tuple[BenchPlan, WorldResult]) -> None:
    page = render(collect(*finished))
    for words in (
        "Latency over time",
        "Time between tokens",
        "Load and KV cache",
        "operator family",
        "Confidence",
    ):
        assert words in page
    assert 'src="http' not in page


def test_percentiles_by_window() -> None:
    times = [float(second) for second in range(100)]
    centres, series = windowed_percentiles(times, [1.0] * 50 + [3.0] * 50, (50,))
    assert len(centres) == 20
    assert series[50][0] == 1.0 and series[50][-1] == 3.0
    assert windowed_percentiles([], [], (50,)) == ([], {50: []})


@pytest.mark.parametrize(
    ("clock", "options", "pace"),
    [
        ({"cpu_factor": 0.6, "cpu_factor_most": 1.0}, {}, 0.6),
        ({"cpu_factor": 0.9, "cpu_factor_most": 1.0}, {}, 0.9),
        ({"cpu_factor": 0.6, "cpu_factor_most": 1.0}, {"cpu_factor": 0.6}, None),
        ({"cpu_factor": 0.6, "cpu_factor_most": 1.0}, {"cpu_time": "free"}, None),
        ({}, {}, None),
    ],
)
def test_a_run_on_a_crowded_machine_says_so(
    tmp_path: Path, clock: dict[str, float], options: dict[str, Any], pace: float | None
) -> None:
    world = WorldResult(0, 4.0, clock, summarize_run_dir(tmp_path), RunOptions("h100_sxm", **options))
    said = io.StringIO()
    print_run_summary(world, Console(file=said, width=200))
    assert run_block(world)["wall"]["host_pace"] == pace
    assert ("crowded: its pace was 60% of its best" in said.getvalue()) is (pace == 0.6)
