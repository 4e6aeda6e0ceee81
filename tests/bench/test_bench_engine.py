"""`revati bench vllm` with the real vLLM: flags sorted by its own parsers, a model served to the end."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy
import pytest

from revati.bench.result import without_wall_clock
from revati.cli.main import run_main
from revati.models.sharegpt import make_dataset

pytest.importorskip("vllm")
pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]

MODEL = "test/tiny-llama"
CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 32000,
    "hidden_size": 512,
    "intermediate_size": 1024,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 64,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "torch_dtype": "bfloat16",
    "bos_token_id": 1,
    "eos_token_id": 2,
}


@pytest.fixture(scope="module")
def configs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    root = tmp_path_factory.mktemp("configs")
    folder = root / MODEL
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    yield root


def bench(configs: Path, *words: str) -> int:
    argv = ["bench", "vllm", "--gpu", "h100_sxm", "--cpu-time", "free", "--model-configs", str(configs)]
    return run_main([*argv, *words])


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--model", MODEL, "--no-such-flag", "1"), "unknown flag --no-such-flag"),
        (("--model", MODEL, "--gpus", "2", "-tp", "4"), "needs 4"),
        (
            (
                "--model",
                "no/such-model",
            ),
            "neither a known model",
        ),
        ((), "--model is missing"),
        (("--model", MODEL, "--port", "99999"), "--port must be 1 to 65535"),
        (("--model", MODEL, "--output-lengths", "/no/such/file"), "no such file"),
    ],
)
def test_a_mistake_is_one_line(
    configs: Path, words: tuple[str, ...], expected: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert bench(configs, *words) == 2
    printed = capfd.readouterr().err
    assert expected in printed and printed.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--ignore-eos", "--dataset-name", "sharegpt"), "no effect with --ignore-eos"),
        (("--dataset-name", "random"), "no effect: with --dataset-name random"),
        ((), "no effect: with --dataset-name random"),
    ],
)
def test_recorded_lengths_that_would_be_ignored_are_refused(
    configs: Path, tmp_path: Path, words: tuple[str, ...], expected: str, capfd: pytest.CaptureFixture[str]
) -> None:
    lengths = tmp_path / "lengths.jsonl"
    lengths.write_text('{"output_tokens": 5}\n')
    assert bench(configs, "--model", MODEL, *words, "--output-lengths", str(lengths)) == 2
    printed = capfd.readouterr().err
    assert expected in printed and printed.count("\n") == 1


PROMPTS = 12
PROMPT_TOKENS = [40 + 7 * number for number in range(PROMPTS)]
RECORDED = [3 + 2 * number for number in range(PROMPTS - 2)]  # two requests have no line
MOST_TOKENS = 30


@pytest.fixture(scope="module")
def load(configs: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Flags of a load whose requests end at recorded lengths."""
    folder = tmp_path_factory.mktemp("load")
    conversations = make_dataset(CONFIG, numpy.array(PROMPT_TOKENS), numpy.array([MOST_TOKENS] * PROMPTS), 1)
    (folder / "dataset.json").write_text(json.dumps(conversations))
    lines = [json.dumps({"output_tokens": tokens}) + "\n" for tokens in RECORDED]
    (folder / "lengths.jsonl").write_text("".join(lines))
    words = ["--model", MODEL, "--dataset-name", "sharegpt", "--dataset-path", str(folder / "dataset.json")]
    words += ["--disable-shuffle", "--num-prompts", str(PROMPTS), "--request-rate", "20"]
    words += ["--temperature", "0", "--save-detailed", "--max-num-seqs", "8"]
    return [*words, "--output-lengths", str(folder / "lengths.jsonl")]


@pytest.fixture(scope="module")
def served(configs: Path, load: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with all that one benchmark writes."""
    folder = tmp_path_factory.mktemp("served")
    outputs = [("--result", "out.json"), ("--html", "out.html"), ("--trace", "trace.json")]
    outputs += [("--server-log", "server.log")]
    words = [word for name, file in outputs for word in (name, str(folder / file))]
    assert bench(configs, *load, *words) == 0
    return folder


def test_a_small_model_is_served_to_the_end(served: Path) -> None:
    written = json.loads((served / "out.json").read_text())
    assert written["completed"] == PROMPTS
    assert written["total_input_tokens"] == sum(PROMPT_TOKENS)
    assert 0 < written["mean_tpot_ms"] < 20
    block = written["revati"]
    assert block["stage"] == "done" and block["gpu"] == "h100_sxm"
    assert {"gemm", "attention"} <= {row["family"] for row in block["predicted_time_by_family"]}
    assert block["engine"]["num_gpu_blocks"] > 1000
    assert "Latency over time" in (served / "out.html").read_text()
    names = {event["name"] for event in json.loads((served / "trace.json").read_text())["traceEvents"]}
    assert "to first token" in names and "aten::mm" in names


def test_requests_end_at_their_recorded_lengths(served: Path) -> None:
    written = json.loads((served / "out.json").read_text())
    assert written["output_lens"] == [*RECORDED, MOST_TOKENS, MOST_TOKENS]
    assert written["revati"]["finish_reasons"] == {"length": 2, "stop": len(RECORDED)}
    assert any("10 lines for 12 requests" in note for note in written["revati"]["notes"])


def test_a_profile_of_another_engine_version_is_noted(served: Path) -> None:
    notes = json.loads((served / "out.json").read_text())["revati"]["notes"]
    assert any("profile h100_sxm was not measured with vLLM 0.32.0" in note for note in notes)


@pytest.mark.slow
def test_a_second_run_is_byte_identical(configs: Path, served: Path, load: list[str], tmp_path: Path) -> None:
    assert bench(configs, *load, "--result", str(tmp_path / "again.json")) == 0
    first, again = served / "out.json", tmp_path / "again.json"
    assert without_wall_clock(again.read_text()) == without_wall_clock(first.read_text())


def test_by_hand_the_figures_are_the_same(
    configs: Path, served: Path, load: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """README's two programs in one world give what `revati bench` gives."""
    vllm = f"{sys.executable} -m vllm.entrypoints.cli.main"
    client, server, own = load[2:-4], load[-4:-2], load[-2:]
    client += ["--save-result", "--result-dir", str(tmp_path), "--result-filename", "by-hand.json"]
    script = f"""
      {vllm} serve {MODEL} --load-format dummy {shlex.join(server)} & server=$!
      until curl -sf localhost:8000/health; do sleep 1; done
      {vllm} bench serve --model {MODEL} {shlex.join(client)}
      kill $server; wait"""
    options = ["--gpu", "h100_sxm", "--cpu-time", "free", "--model-configs", str(configs), *own]
    assert run_main(["run", *options, "--", "bash", "-c", script]) == 0
    by_revati = json.loads((served / "out.json").read_text())
    by_hand = json.loads((tmp_path / "by-hand.json").read_text())
    assert by_hand["output_lens"] == by_revati["output_lens"]
    figures = [name for name, value in by_hand.items() if isinstance(value, float)]
    assert len(figures) > 15
    assert {n: f"{by_hand[n]:.2f}" for n in figures} == {n: f"{by_revati[n]:.2f}" for n in figures}
    written = capfd.readouterr()
    assert f"MeanTTFT(ms):{by_revati['mean_ttft_ms']:.2f}" in written.out.replace(" ", "")
    assert "predicted GPU time" in written.err  # of an engine that was ended by a signal


@pytest.mark.slow
def test_an_interrupt_keeps_what_finished_and_leaves_no_process(configs: Path, tmp_path: Path) -> None:
    words = ["--model", MODEL, "--random-input-len", "100", "--random-output-len", "20"]
    words += ["--num-prompts", "5000", "--request-rate", "20", "--result", str(tmp_path / "out.json")]
    line = [sys.executable, "-m", "revati.cli.main", "bench", "vllm", "--gpu", "h100_sxm"]
    line += ["--cpu-time", "free", "--model-configs", str(configs), *words]
    env = {**os.environ, "REVATI_TEST_RUN": str(tmp_path), "PYTHONUNBUFFERED": "1"}
    # A session of its own stands for a terminal's foreground group.
    process = subprocess.Popen(
        line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env, start_new_session=True
    )
    assert process.stdout is not None
    for row in process.stdout:
        if "Traffic request rate" in row:
            break
    time.sleep(10)
    os.killpg(process.pid, signal.SIGINT)
    printed = process.stdout.read()
    assert process.wait(timeout=120) == 130
    assert not re.search(r"^Traceback", printed, re.MULTILINE)
    written = json.loads((tmp_path / "out.json").read_text())
    assert written["revati"]["stage"] == "interrupted"
    assert 0 < written["completed"] < 5000 and written["mean_ttft_ms"] > 0
    assert f"figures of {written['completed']} requests kept" in printed
    assert not processes_with(f"REVATI_TEST_RUN={tmp_path}")


def processes_with(setting: str) -> list[str]:
    """Command lines of processes that have this in their environment."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if setting.encode() in (folder / "environ").read_bytes().split(b"\0"):
                found.append((folder / "cmdline").read_text().replace("\0", " "))
    return found
