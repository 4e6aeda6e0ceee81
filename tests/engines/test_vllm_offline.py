"""Real vLLM, offline, on the virtual GPU and in virtual time."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.engine, pytest.mark.timeout(900)]

PROGRAM = """
import json, time
from revati.models.catalogue import find_model
from revati.models.materialise import materialise

if __name__ == "__main__":
    from vllm import LLM, SamplingParams
    from vllm.platforms import current_platform

    llm = LLM(
        model=str(materialise(find_model("meta-llama/Llama-3.1-8B"))),
        load_format="dummy",
        max_model_len=1024,
        hf_overrides={"num_hidden_layers": 2}, max_num_seqs=16, num_gpu_blocks_override=200,
        compilation_config={"cudagraph_capture_sizes": [1, 2, 4, 8, 16]},
    )
    began = time.monotonic()
    # 12 requests of 400 + 60 tokens need 348 blocks of 16: the last ones are preempted or wait
    prompts = [{"prompt_token_ids": [7 + i] * 400} for i in range(12)]
    sampling = SamplingParams(max_tokens=60, ignore_eos=True, detokenize=False)
    outputs = llm.generate(prompts, sampling, use_tqdm=False)
    print("RESULT " + json.dumps({
        "platform": type(current_platform).__name__,
        "tokens": [len(o.outputs[0].token_ids) for o in outputs],
        "virtual_ns": round((time.monotonic() - began) * 1e9),
    }), flush=True)
"""


def test_every_request_gets_its_tokens_under_memory_pressure_and_reruns_are_identical(
    tmp_path: Path, emulate: Callable[..., Any]
) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    first = emulate([program], "--cpu-time", "free")
    assert first["platform"] == "VirtualCudaPlatform"
    assert first["tokens"] == [60] * 12
    assert first["virtual_ns"] > 60 * 100_000  # two layers cannot decode a token in less than 0.1 ms
    assert emulate([program], "--cpu-time", "free") == first


def test_a_model_that_does_not_fit_is_refused_by_vllm_itself(
    tmp_path: Path, attempt: Callable[..., Any]
) -> None:
    program = tmp_path / "big.py"
    program.write_text(
        PROGRAM.replace("meta-llama/Llama-3.1-8B", "meta-llama/Llama-3.1-70B").replace(
            '{"num_hidden_layers": 2}', "{}"
        )
    )
    done = attempt([program], "--cpu-time", "free", gpu="rtx4090")
    assert done.returncode != 0
    assert "CUDA out of memory" in done.stdout + done.stderr


def test_plug_in_is_inert_outside_a_run() -> None:
    code = (
        "import sys; from revati.engines.vllm import register_platform; "
        "assert register_platform() is None; assert 'torch' not in sys.modules"
    )
    env = {k: v for k, v in os.environ.items() if not k.startswith("REVATI_")}
    subprocess.run([sys.executable, "-c", code], check=True, env=env)
