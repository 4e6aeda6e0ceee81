"""Two-layer versions of the models and features of the support matrix generate tokens on real vLLM."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from revati.models.catalogue import find_model
from revati.models.materialise import materialise

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(1800)]

PROGRAM = Path(__file__).parent / "programs" / "two_layers.py"
LLAMA = "meta-llama/Llama-3.1-8B"
TWO = {"num_hidden_layers": 2}
AWQ = {"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True, "version": "gemm"}
GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": False, "sym": True}
NGRAM = {"method": "ngram", "num_speculative_tokens": 3, "prompt_lookup_max": 4, "prompt_lookup_min": 2}

CASES: dict[str, tuple[str, dict[str, Any], str]] = {  # model, arguments, an op that must have run
    "mixtral": ("mistralai/Mixtral-8x7B-Instruct-v0.1", {"hf_overrides": TWO}, "triton::fused_moe_kernel"),
    "qwen3-moe": ("Qwen/Qwen3-30B-A3B", {"hf_overrides": TWO}, "triton::fused_moe_kernel"),
    "deepseek-v3": (
        "deepseek-ai/DeepSeek-V3",
        {"hf_overrides": {"num_hidden_layers": 2, "first_k_dense_replace": 1}},
        "deep_gemm::fp8_fp4_gemm_nt",
    ),
    "gpt-oss": (
        "openai/gpt-oss-120b",
        {"hf_overrides": {**TWO, "layer_types": ["sliding_attention", "full_attention"]}},
        "triton::_matmul_ogs",
    ),
    "awq": (LLAMA, {"hf_overrides": {**TWO, "quantization_config": AWQ}}, "_C::machete_mm"),
    "gptq": (LLAMA, {"hf_overrides": {**TWO, "quantization_config": GPTQ}}, "_C::machete_mm"),
    "lora": (LLAMA, {"hf_overrides": TWO, "enable_lora": True}, "triton::_lora_shrink_kernel"),
    "ngram": (LLAMA, {"hf_overrides": TWO, "speculative_config": NGRAM}, "triton::_rejection_kernel"),
    "eagle": (
        LLAMA,
        {"hf_overrides": TWO, "speculative_config": {"method": "eagle", "num_speculative_tokens": 3}},
        "triton::_update_draft_inputs_kernel",
    ),
    "draft": (
        LLAMA,
        {"hf_overrides": TWO, "speculative_config": {"method": "draft_model", "num_speculative_tokens": 3}},
        "triton::_rejection_kernel",
    ),
    "mtp": (
        "deepseek-ai/DeepSeek-V3",
        {
            "hf_overrides": {"num_hidden_layers": 2, "first_k_dense_replace": 1},
            "speculative_config": {"method": "mtp", "num_speculative_tokens": 3},
        },
        "triton::_rejection_kernel",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_generates_tokens(tmp_path: Path, emulate: Callable[..., Any], name: str) -> None:
    model, engine, op = CASES[name]
    engine = {"model": str(materialise(find_model(model))), **engine}
    if name in ("eagle", "draft"):
        draft = tmp_path / "draft"
        draft.mkdir()
        config = {**find_model(LLAMA).config(), "num_hidden_layers": 1}
        (draft / "config.json").write_text(json.dumps(config))
        engine["speculative_config"] = {**engine["speculative_config"], "model": str(draft)}
    case = tmp_path / "case.json"
    case.write_text(json.dumps({"engine": engine, "tokens": 24, "lora": name == "lora"}))
    result = emulate(
        [PROGRAM, case], "--cpu-time", "free", timeout_s=1700, env={"REVATI_ACCEPTANCE_RATE": "1"}
    )
    assert result["tokens"] == [24] * 3
    assert all(result["texts"])  # a token without text costs the detokenizer a prompt a token
    ops = result["ops"]
    assert op in ops, sorted(ops)
    assert not [n for n, (_, confidence, _) in ops.items() if "roofline" in confidence], ops
    if "speculative_config" in engine:  # all drafts accepted: four tokens a step after the first
        assert ops["triton::_rejection_kernel"][2] <= 8


def test_four_bit_experts_run_by_marlin_before_hopper(tmp_path: Path, emulate: Callable[..., Any]) -> None:
    layers = {**TWO, "layer_types": ["sliding_attention", "full_attention"]}
    engine = {"model": str(materialise(find_model("openai/gpt-oss-20b"))), "hf_overrides": layers}
    case = tmp_path / "case.json"
    case.write_text(json.dumps({"engine": engine, "tokens": 24}))
    result = emulate([PROGRAM, case], "--cpu-time", "free", gpu="a100_sxm", timeout_s=1700)
    assert result["tokens"] == [24] * 3
    assert "_moe_C::moe_wna16_marlin_gemm" in result["ops"], sorted(result["ops"])
