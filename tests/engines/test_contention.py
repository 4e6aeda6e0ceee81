"""A busy machine does not change what an emulation says: real vLLM, served alone and beside CPU hogs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.contention import LOAD, METRICS, serve

pytest.importorskip("vllm")
pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(3000)]

MODEL = "test/small-llama"
CONFIG = {
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


def test_free_metrics_are_identical_alone_and_beside_three_hogs(tmp_path: Path) -> None:
    folder = tmp_path / MODEL
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    load = [*LOAD, "--model", MODEL, "--model-configs", str(tmp_path), "--request-rate", "100"]
    alone, beside = serve("free", 0, load), serve("free", 3, load)
    assert [alone[name] for name in METRICS] == [beside[name] for name in METRICS]
    assert 0 < alone["mean_tpot_ms"] < 20
