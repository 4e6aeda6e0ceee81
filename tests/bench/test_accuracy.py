"""The accuracy harness: case files, statistics, tables. No case is emulated here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import older_vllm
from benchmarks.accuracy.__main__ import jobs, main
from benchmarks.accuracy.case import Case, CaseError, Series, load_cases, load_series, select
from benchmarks.accuracy.metrics import errors_percent, flatten, from_bench, from_requests, medians
from benchmarks.accuracy.records import keep, kept
from benchmarks.accuracy.runner import Outcome, Variant, bench_words, data_folder
from benchmarks.accuracy.table import markdown, markdown_of_series, replace_section, series_rows
from revati.bench.client import GO


def case_named(name: str) -> Case:
    return select(load_cases(), [name])[0]


def test_every_shipped_case_is_valid_and_has_a_known_gpu_and_model() -> None:
    from revati.models.catalogue import find_model
    from revati.spec import load_spec

    cases = load_cases()
    assert len({case.id for case in cases}) == len(cases) >= 15
    for case in cases:
        load_spec(case.series.gpu)
        assert find_model(case.series.model) is not None


def test_a_series_name_selects_all_its_points() -> None:
    assert [case.point.concurrency for case in select(load_cases(), ["h100-qwen3-8b"])] == [1, 2, 4, 8]
    with pytest.raises(CaseError, match="unknown case"):
        select(load_cases(), ["nothing"])


def test_a_broken_file_is_named_with_its_field(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("id: x\ngpus: many\n")
    with pytest.raises(CaseError, match=r"x\.yaml"):
        load_series(path)


BASE = """
id: base
gpu: h100_sxm
model: Qwen/Qwen3-8B
measured_engine: vLLM 0.30.0
source: a test
client: http
flags: [--max-model-len, "64"]
workload: {kind: random, input_tokens: 8, output_tokens: 4, seed: 7}
points: [{id: c1, concurrency: 1, measured: {duration_s: 1.0}}]
"""


def test_a_file_like_another_takes_what_it_leaves_out(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(BASE)
    (tmp_path / "other.yaml").write_text(
        "id: other\nlike: base\nmore_flags: [--quantization, fp8]\nworkload: {input_tokens: 16}\n"
        "points: [{id: c2, concurrency: 2, measured: {duration_s: 3.0}}]\n"
    )
    base, other = (series.series for series in load_cases(tmp_path))
    assert (other.id, other.gpu, other.source) == ("other", base.gpu, base.source)
    assert other.flags == ["--max-model-len", "64", "--quantization", "fp8"]
    assert (other.workload.input_tokens, other.workload.output_tokens, other.workload.seed) == (16, 4, 7)
    assert [point.id for point in other.points] == ["c2"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("like: nowhere", r"no case file nowhere\.yaml"),
        ("like: other", "name that one"),
        ("like: base", "points: List should have at least 1 item"),
        (BASE.replace("points: [", "points: [{id: c1, measured: {}}, "), "twice: c1"),
        ("a line", "mapping"),
    ],
)
def test_a_file_that_cannot_be_put_together_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "base.yaml").write_text(BASE)
    (tmp_path / "other.yaml").write_text("like: base\nid: other")
    path = tmp_path / "x.yaml"
    path.write_text(text)
    with pytest.raises(CaseError, match=message) as caught:
        load_series(path)
    assert "\n" not in str(caught.value)


def test_statistics_follow_vllms_definitions() -> None:
    request = {"queued_s": 1.0, "first_token_s": 1.5, "last_token_s": 3.5, "output_tokens": 5.0}
    found = from_requests([request])
    assert found["ttft_ms"]["mean"] == 500.0
    assert found["tpot_ms"]["mean"] == 500.0
    assert found["e2el_ms"]["p99"] == 2500.0
    assert (found["duration_s"], found["output_tokens_per_s"]) == (2.5, 2.0)


def test_errors_are_signed_percent() -> None:
    client = {"mean_ttft_ms": 55.0, "median_ttft_ms": 40.0, "duration": 10.0}
    predicted = flatten(from_bench(client))
    assert predicted == {"ttft_ms.mean": 55.0, "ttft_ms.p50": 40.0, "duration_s": 10.0}
    assert errors_percent({"ttft_ms.mean": 50.0, "tpot_ms.mean": 1.0}, predicted) == pytest.approx(
        {"ttft_ms.mean": 10.0}
    )


def test_a_sharegpt_case_makes_its_dataset(tmp_path: Path) -> None:
    words = bench_words(case_named("h100-qwen3-8b-c4"), tmp_path)
    assert words[words.index("--max-concurrency") + 1] == "4"
    assert len(json.loads((tmp_path / "dataset.json").read_text())) == 100


def test_a_random_case_scales_its_prompts(tmp_path: Path) -> None:
    words = bench_words(case_named("h100-llama70b-fp8-c16"), tmp_path)
    assert words[words.index("--num-prompts") + 1] == "160"
    assert words[words.index("--max-num-seqs") + 1] == "16"


def test_a_random_case_has_a_least_number_of_prompts(tmp_path: Path) -> None:
    for point, prompts in (("c4", "50"), ("c16", "80")):
        words = bench_words(case_named(f"h100-qwen3-8b-v030-chat-{point}"), tmp_path)
        assert words[words.index("--num-prompts") + 1] == prompts


def test_repeats_have_seeds_of_their_own_and_their_medians_count(tmp_path: Path) -> None:
    case = case_named("h100-qwen3-8b-v030-fp8-chat-c4")
    words = [bench_words(case, tmp_path, repeat) for repeat in range(case.series.workload.repeats)]
    assert [each[each.index("--seed") + 1] for each in words] == ["42", "43", "44"]
    assert medians([{"duration_s": each} for each in (5.0, 9.0, 6.0)]) == {"duration_s": 6.0}
    raw = case.series.model_dump() | {"one_server": False}
    with pytest.raises(ValueError, match="repeats needs one_server"):
        Series.model_validate(raw)


def test_points_that_share_a_server_are_one_job() -> None:
    cases = select(load_cases(), ["h100-qwen3-8b-v030-chat", "h100-qwen3-8b-c1", "h100-qwen3-8b-c4"])
    free = Variant("free-host", cpu_time="free")
    found = [([case.id for case in group], variant.name) for group, variant in jobs(cases, [Variant(), free])]
    shared = [case.id for case in cases if case.series.one_server]
    assert len(shared) == 7
    assert found == [
        (shared, "default"),
        (shared, "free-host"),
        *[
            ([f"h100-qwen3-8b-{point}"], name)
            for point in ("c1", "c4")
            for name in ("default", "free-host")
        ],
    ]


def test_the_measured_version_runs_where_it_is_installed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cases = select(load_cases(), ["h100-qwen3-8b-c1", "h100-qwen3-32b-c8"])
    same = Variant("measured-version", measured_version=True)
    monkeypatch.setattr("benchmarks.accuracy.__main__.versions", lambda: {"vllm": "0.12.0"})
    assert [[case.id for case in group] for group, _ in jobs(cases, [same])] == [["h100-qwen3-32b-c8"]]
    assert main(["h100-qwen3-8b-c1", "--variants", "measured-version"]) == 2
    said = capsys.readouterr().err
    assert "vLLM 0.12.0 is installed, measured was vLLM 0.11.0; `python -m benchmarks.older_vllm" in said


def test_an_environment_takes_the_place_of_another_and_of_nothing_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert older_vllm.refusal("0.11.0", tmp_path / "new") is None
    assert older_vllm.refusal("0.11.0", tmp_path) is None
    (tmp_path / "thesis.txt").write_text("")
    assert older_vllm.main(["0.11.0", str(tmp_path)]) == 2
    assert f"{tmp_path} holds something else than an environment" in capsys.readouterr().err
    assert (tmp_path / "thesis.txt").exists()
    (tmp_path / "pyvenv.cfg").write_text("")
    assert older_vllm.refusal("0.11.0", tmp_path) is None
    assert older_vllm.main(["0.15.0", str(tmp_path)]) == 2
    assert "vLLM 0.15.0: expected one of 0.10, 0.11" in capsys.readouterr().err


def test_an_older_client_is_told_each_ratio_of_lengths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = case_named("h100-qwen3-32b-c8")
    monkeypatch.setattr("benchmarks.accuracy.runner.is_older", lambda: True)
    assert bench_words(case, tmp_path)[-2:] == ["--random-range-ratio", "0"]
    monkeypatch.setattr("benchmarks.accuracy.runner.is_older", lambda: False)
    assert json.loads(bench_words(case, tmp_path)[-1]) == {"input": 0, "output": 0.3}


def test_clients_run_in_turn_until_one_fails(tmp_path: Path) -> None:
    """Each waits at the gate, as `revati.bench.client` does; the driver's word comes once."""
    (tmp_path / "a_client.py").write_text(
        "import sys\nfrom revati.bench.client import wait_at_gate\n"
        "def main():\n    path, note, code = sys.argv[1:]\n    wait_at_gate()\n"
        "    open(path, 'a').write(note)\n    sys.exit(int(code))\n"
    )
    notes, spec = tmp_path / "notes", tmp_path / "clients.json"
    words = [("a", "0"), ("b", "3"), ("c", "0")]
    spec.write_text(json.dumps([["python", "-m", "a_client", str(notes), *pair] for pair in words]))
    program = (
        "from benchmarks.accuracy import clients\nclients.PRELOADED = ()\nraise SystemExit(clients.main())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(spec)],
        input=GO,
        env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{Path(__file__).parents[2]}"},
        timeout=60,
        check=False,
    )
    assert done.returncode == 3
    assert notes.read_text() == "ab"


def test_cases_with_percentiles_only_have_a_table_of_their_own() -> None:
    means, percentiles = case_named("h100-qwen3-8b-c1"), case_named("h100-qwen3-8b-v030-chat-c1")
    outcomes = [
        Outcome(means, Variant(), {"tpot_ms.mean": 7.28}, {}, {}),
        Outcome(percentiles, Variant(), {"tpot_ms.p95": 6.84}, {}, {}),
    ]
    first, second = markdown(outcomes).split("\n\n")
    assert "TPOT mean, ms" in first and "7.28 / 7.28 (+0.0%)" in first
    assert "TPOT p95, ms" in second and "6.84 / 6.84 (+0.0%)" in second


def test_missing_data_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REVATI_GROUND_TRUTH", raising=False)
    with pytest.raises(CaseError, match="--data"):
        data_folder(case_named("rtx4090-llama8b"), None)
    with pytest.raises(CaseError, match="does not exist"):
        data_folder(case_named("rtx4090-llama8b"), tmp_path)


def test_the_table_says_what_was_missed() -> None:
    case = case_named("h100-qwen3-8b-c1")
    predicted = {"ttft_ms.mean": 59.0, "tpot_ms.mean": 8.0}
    errors = errors_percent(flatten(case.point.measured), predicted)
    outcome = Outcome(case, Variant(), predicted, errors, {})
    assert outcome.misses() == ["tpot_ms.mean"]
    text = markdown([outcome])
    assert "missed: tpot_ms.mean" in text and "7.28 / 8.00 (+9.9%)" in text


def test_the_summary_has_the_mean_absolute_and_the_largest_error_of_each_series() -> None:
    older = Outcome(case_named("h100-qwen3-8b-c1"), Variant(), {}, {"tpot_ms.mean": -9.0}, {})
    points = [
        Outcome(case_named(f"h100-qwen3-8b-v030-chat-{one}"), Variant(), {}, {"tpot_ms.p95": error}, {})
        for one, error in (("c1", -3.0), ("c4", 1.0), ("c16", 0.5))
    ]
    rows = series_rows([points[0], older, *points[1:]])
    assert [(row[0], row[3], row[5], row[7]) for row in rows] == [
        ("h100-qwen3-8b", "vLLM 0.11.0", "1", "-9.0%"),
        ("h100-qwen3-8b-v030-chat", "vLLM 0.30.0", "3", "1.5% (-3.0%)"),
    ]
    assert "| 3 |  | 1.5% (-3.0%) |" in markdown_of_series(points)


def test_a_document_keeps_what_is_around_the_tables() -> None:
    before = "before\n<!-- a: begin -->\nold\n<!-- a: end -->\nafter\n"
    text = replace_section(before, "a", "new\n")
    assert text == before.replace("old", "new")
    assert replace_section(text, "b", "more\n") == text + "\n<!-- b: begin -->\nmore\n<!-- b: end -->\n"


def test_records_take_the_place_of_earlier_ones_beside_what_was_measured(tmp_path: Path) -> None:
    case = case_named("h100-qwen3-8b-c1")
    block = {"versions": {"vllm": "0.32.0"}, "wall": {"host_pace": 1.0, "clock": {}}, "top_ops": []}
    keep([Outcome(case, Variant(), {"tpot_ms.mean": 1.0}, {}, block)], tmp_path)
    same = Variant("measured-version", measured_version=True)
    [path] = keep(
        [
            Outcome(case, same, {"tpot_ms.mean": 7.28 * 2}, {}, block),
            Outcome(case, Variant(), {"tpot_ms.mean": 7.28}, {}, block),
        ],
        tmp_path,
    )
    assert path.name == "h100-qwen3-8b.json" and "top_ops" not in path.read_text()
    found = kept([case, case_named("h100-qwen3-8b-c2")], tmp_path)
    assert [(one.variant.name, one.error_percent["tpot_ms.mean"]) for one in found] == [
        ("default", pytest.approx(0.0)),
        ("measured-version", pytest.approx(100.0)),
    ]
    with pytest.raises(CaseError, match="no record of these cases"):
        kept([case_named("h100-qwen3-8b-c2")], tmp_path)
    path.write_text("[{}]")
    with pytest.raises(CaseError, match=r"h100-qwen3-8b\.json"):
        kept([case], tmp_path)


def test_the_document_holds_the_records(tmp_path: Path) -> None:
    document = Path(__file__).parents[2] / "docs" / "accuracy.md"
    again = tmp_path / "accuracy.md"
    again.write_text(document.read_text())
    assert main(["--show", "--markdown", str(again)]) == 0
    assert again.read_text() == document.read_text()


def test_an_unknown_case_ends_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["no-such-case"]) == 2
    assert capsys.readouterr().err.startswith("accuracy: unknown case")


def test_resume_takes_over_what_the_result_file_holds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case = case_named("h100-qwen3-8b-c1")
    earlier = Outcome(case, Variant(), {"ttft_ms.mean": 62.0}, {}, {"virtual_s": 1.0})
    results, document = tmp_path / "results.json", tmp_path / "accuracy.md"
    results.write_text(json.dumps([earlier.as_json()]))
    words = [case.id, "--json", str(results), "--resume", "--markdown", str(document)]
    assert main(words) == 0
    assert "59.01 / 62.00 (+5.1%)" in document.read_text()
    assert "--resume" not in document.read_text()


def test_show_prints_all_that_the_result_file_holds_and_runs_nothing(tmp_path: Path) -> None:
    case = case_named("h100-qwen3-8b-c2")
    same = Variant("measured-version", measured_version=True)
    found = [Outcome(case, each, {"ttft_ms.mean": 62.0}, {}, {}) for each in (same, Variant())]
    results, document = tmp_path / "results.json", tmp_path / "accuracy.md"
    results.write_text(json.dumps([outcome.as_json() for outcome in found]))
    assert main(["--show", "--json", str(results), "--markdown", str(document)]) == 0
    rows = [line for line in document.read_text().splitlines() if line.startswith(f"| {case.id} |")]
    assert [row.split(" | ")[1] for row in rows] == ["default", "measured-version"]
    assert main(["rtx4090-llama8b", "--show", "--json", str(results)]) == 2
    assert main(["--show", "--json", str(tmp_path / "nothing.json")]) == 2
    results.write_text(json.dumps([{"case": case.id, "variant": {"name": "default", "odd": 1}}]))
    assert main(["--show", "--json", str(results)]) == 2


def test_resume_refuses_a_file_of_something_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = tmp_path / "results.json"
    results.write_text('{"benchmark": 1}')
    assert main(["h100-qwen3-8b-c1", "--json", str(results), "--resume"]) == 2
    assert main(["h100-qwen3-8b-c1", "--resume"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert "holds no results" in lines[0] and "--json FILE" in lines[1]
