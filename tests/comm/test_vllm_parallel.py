"""Real vLLM on several virtual GPUs: tensor and expert parallelism, one process a rank."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from revati.cli.environment import RunOptions, build_environment
from revati.models.catalogue import find_model
from revati.models.materialise import materialise

SCRIPT = """
import sys
from vllm import LLM, SamplingParams
if __name__ == "__main__":
    llm = LLM(model=sys.argv[1], load_format="dummy", max_model_len=2048,
              tensor_parallel_size=int(sys.argv[2]), enable_expert_parallel=sys.argv[3] == "ep",
              compilation_config={"cudagraph_capture_sizes": [1, 8]})
    prompts = [{"prompt_token_ids": [1] * 64}] * 8
    sampling = SamplingParams(max_tokens=8, ignore_eos=True, detokenize=False)
    out = llm.generate(prompts, sampling, use_tqdm=False)
    print("tokens", sum(len(o.outputs[0].token_ids) for o in out), flush=True)
"""


@pytest.mark.engine
@pytest.mark.parametrize(
    ("model", "ranks", "kind"),
    [
        ("meta-llama/Llama-3.1-8B", 2, "tp"),
        pytest.param("Qwen/Qwen3-30B-A3B", 2, "ep", marks=pytest.mark.slow),
    ],
)
def test_offline(model: str, ranks: int, kind: str, tmp_path: Path) -> None:
    """Outside a run: without the shared clock, in real time."""
    script = tmp_path / "offline.py"
    script.write_text(SCRIPT)
    env = build_environment(RunOptions(gpu="h100_sxm", gpus=ranks), tmp_path)
    command = [sys.executable, str(script), str(materialise(find_model(model))), str(ranks), kind]
    done = subprocess.run(command, env=env, text=True, capture_output=True, timeout=900)
    assert "tokens 64" in done.stdout, done.stderr[-4000:]
