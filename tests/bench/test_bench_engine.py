"""`revati bench vllm` with the real vLLM: flags sorted by its own parsers, a model served to the end."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from revati.cli.main import run_main

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
    ],
)
def test_a_mistake_is_one_line(
    configs: Path, words: tuple[str, ...], expected: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert bench(configs, *words) == 2
    printed = capfd.readouterr().err
    assert expected in printed and printed.count("\n") == 1


def test_a_small_model_is_served_to_the_end(
    configs: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    result, page, trace = tmp_path / "out.json", tmp_path / "out.html", tmp_path / "trace.json"
    words = ["--model", MODEL, "--dataset-name", "random", "--random-input-len", "100"]
    words += ["--random-output-len", "20", "--num-prompts", "8", "--request-rate", "20", "--temperature", "0"]
    words += ["--max-num-seqs", "8", "--result", str(result), "--html", str(page), "--trace", str(trace)]
    assert bench(configs, *words) == 0, capfd.readouterr().err
    written = json.loads(result.read_text())
    assert (written["completed"], written["total_output_tokens"]) == (8, 160)
    assert written["total_input_tokens"] == 800
    assert 0 < written["mean_tpot_ms"] < 20
    block = written["revati"]
    assert block["stage"] == "done" and block["gpu"] == "h100_sxm"
    assert {"gemm", "attention"} <= {row["family"] for row in block["predicted_time_by_family"]}
    assert block["engine"]["num_gpu_blocks"] > 1000
    assert "Latency over time" in page.read_text()
    names = {event["name"] for event in json.loads(trace.read_text())["traceEvents"]}
    assert "to first token" in names and "aten::mm" in names
