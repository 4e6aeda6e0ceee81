"""Real vLLM on a virtual B200 takes the kernels that it takes there by default: FlashInfer's."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from revati.models.catalogue import find_model
from revati.models.materialise import materialise

pytestmark = pytest.mark.engine

PROGRAM = Path(__file__).parent / "programs" / "two_layers.py"
TWO = {"num_hidden_layers": 2}
ATTENTION = {
    "flashinfer::trtllm_batch_context_with_kv_cache",
    "flashinfer::trtllm_batch_decode_with_kv_cache",
}


def _case(folder: Path, model: str, tokens: int = 12, **engine: Any) -> Path:
    case = folder / "case.json"
    known = find_model(model)
    assert known is not None
    case.write_text(json.dumps({"engine": {"model": str(materialise(known)), **engine}, "tokens": tokens}))
    return case


LATENT = {"num_hidden_layers": 2, "first_k_dense_replace": 1}
MIXED = {**TWO, "layer_types": ["sliding_attention", "full_attention"]}
FP4 = {"quant_method": "modelopt", "quant_algo": "NVFP4", "group_size": 16, "ignore": ["lm_head"]}
slow = pytest.mark.slow


@pytest.mark.parametrize(
    ("model", "engine", "expected"),
    [
        ("nvidia/Llama-3.3-70B-Instruct-FP8", {}, {*ATTENTION, "flashinfer::bmm_fp8"}),
        ("Qwen/Qwen3-30B-A3B", {}, {*ATTENTION, "flashinfer::trtllm_bf16_moe"}),
        pytest.param(
            "meta-llama/Llama-3.1-8B",
            {"hf_overrides": {**TWO, "quantization_config": FP4}},
            {*ATTENTION, "flashinfer::mm_fp4"},
            marks=slow,
        ),
        pytest.param(
            "deepseek-ai/DeepSeek-V3",
            {"hf_overrides": LATENT},
            {
                "flash_attention_4::fwd",
                "flashinfer::trtllm_batch_decode_with_kv_cache_mla",
                "flashinfer::trtllm_fp8_block_scale_moe",
            },
            marks=slow,
        ),
        pytest.param(
            "openai/gpt-oss-120b",
            {"hf_overrides": MIXED, "moe_backend": "triton"},
            {*ATTENTION, "triton::_p_matmul_ogs"},
            marks=slow,
        ),
        pytest.param(
            "meta-llama/Llama-3.1-8B",
            {"attention_backend": "FLASH_ATTN"},
            {"flash_attention_4::fwd"},
            marks=slow,
        ),
    ],
)
def test_kernels_have_rules(
    tmp_path: Path, emulate: Callable[..., Any], model: str, engine: dict[str, Any], expected: set[str]
) -> None:
    case = _case(tmp_path, model, **{"hf_overrides": TWO, **engine})
    result = emulate([PROGRAM, case], "--cpu-time", "free", gpu="b200_sxm")
    assert result["tokens"] == [12] * 3
    ops = result["ops"]
    assert expected <= set(ops)
    assert not [name for name, (_, confidence, _) in ops.items() if "roofline" in confidence]


@slow
def test_a_kernel_without_a_rule_is_one_line(tmp_path: Path, attempt: Callable[..., Any]) -> None:
    case = _case(tmp_path, "openai/gpt-oss-120b", hf_overrides=MIXED)
    done = attempt([PROGRAM, case], "--cpu-time", "free", gpu="b200_sxm")
    assert done.returncode == 2
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("revati: FlashInfer's kernel fp4_quantization")
    assert "--moe-backend triton" in last
