"""Unmodified Hugging Face transformers on both identities: real sizes, random weights, hardly any memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import revati

pytest.importorskip("transformers", reason="comes with vLLM")

PROGRAM = Path(__file__).with_name("programs") / "transformers_models.py"
BOOT = Path(revati.__file__).parent / "boot"
GB = 10**9
CASES = {  # case: parameters in billions
    "run:meta-llama/Llama-3.1-8B": 8.03,
    "run:Qwen/Qwen3-32B": 32.76,
    "split:mistralai/Mixtral-8x7B-v0.1": 46.70,
    "split:meta-llama/Llama-3.1-70B": 70.55,
    "train:": 1.24,
}
Said = dict[str, dict[str, Any]]


@pytest.fixture(scope="module", params=["cuda", "revati"])
def said(request: pytest.FixtureRequest) -> Said:
    """What one process said that ran all cases, one after the other."""
    env = {**os.environ, "REVATI_GPUS": "2", "REVATI_LATENCY": "roofline", "HF_HUB_OFFLINE": "1"}
    if request.param == "cuda":
        env |= {"REVATI_IDENTITY": "cuda", "PYTHONPATH": str(BOOT)}
    done = subprocess.run(
        [sys.executable, str(PROGRAM), *CASES], env=env, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return {row["case"]: row for row in map(json.loads, done.stdout.splitlines())}


@pytest.mark.parametrize("case", CASES)
def test_a_model_has_its_real_size(said: Said, case: str) -> None:
    assert said[case]["parameters"] / GB == pytest.approx(CASES[case], rel=0.005)
    weights = 2 * said[case]["parameters"]
    assert sum(said[case]["allocated_bytes"]) > weights


@pytest.mark.parametrize("case", [case for case in CASES if not case.startswith("train")])
def test_forward_and_generate(said: Said, case: str) -> None:
    row = said[case]
    assert row["logits"] == [2, 64, row["vocab"]]
    assert row["tokens"] == [2, 64 + 8]
    assert row["prompt_kept"]


def test_140_gb_of_weights_take_no_memory(said: Said) -> None:
    row = said["split:meta-llama/Llama-3.1-70B"]
    assert len(row["devices"]) == 2
    assert sum(row["allocated_bytes"]) > 140 * GB and max(row["allocated_bytes"]) < 80 * GB
    assert row["peak_rss_bytes"] < 1.5 * GB


def test_a_training_step(said: Said) -> None:
    row = said["train:"]
    assert row["gradients"] == row["tensors"] == row["state"]
    assert row["loss"] == []
    # Gradients and the two moments of Adam, all in bfloat16 as the weights.
    assert row["grown_bytes"] == pytest.approx(3 * 2 * row["parameters"], rel=0.05)
