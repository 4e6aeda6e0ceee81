"""Equal layers of a model are repeated instead of run: nothing but the wall time may show it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.engine, pytest.mark.timeout(900)]

PROGRAM = """
import json, os, sys, time
os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
from revati.models.catalogue import find_model
from revati.models.materialise import materialise

if __name__ == "__main__":
    from vllm import LLM, SamplingParams
    import torch
    from revati import _C
    from revati.engines.vllm import layers

    calls = []
    whole = layers.Layers.__call__
    layers.Layers.__call__ = lambda self, *rest: (calls.append(self._run.count), whole(self, *rest))[1]
    if sys.argv[1] == "usual":
        layers.Layers.ready = lambda self, context: False

    spec = json.loads(sys.argv[2])
    llm = LLM(
        model=str(materialise(find_model(spec.pop("model")))), load_format="dummy", max_model_len=1024,
        max_num_seqs=8, num_gpu_blocks_override=400, max_num_batched_tokens=256,
        compilation_config={"cudagraph_capture_sizes": [1, 2, 4, 8, 64]}, **spec,
    )
    _C.reset_stats()
    began_ns = time.monotonic_ns()
    # of 10 to 250 tokens: steps with a graph for each piece, and steps without one
    prompts = [{"prompt_token_ids": [7 + i] * (10 + 60 * (i % 5))} for i in range(10)]
    outputs = llm.generate(
        prompts, SamplingParams(max_tokens=6, ignore_eos=True, detokenize=False), use_tqdm=False
    )
    torch.cuda.synchronize()
    ops = {}
    for name, family, confidence, shapes, count, total_ns in _C.op_stats():
        entry = ops.setdefault(f"{name} {shapes}", [0, 0])
        entry[0] += count
        entry[1] += total_ns
    print("RESULT " + json.dumps({
        "virtual_ns": time.monotonic_ns() - began_ns, "ops": ops, "busy_ns": _C.busy_ns(),
        "launches": _C.launches(), "peak_bytes": torch.cuda.max_memory_allocated(), "calls": calls,
    }), flush=True)
"""


DENSE = {"model": "meta-llama/Llama-3.1-8B", "hf_overrides": {"num_hidden_layers": 10}}
SLIDING = {"model": "openai/gpt-oss-120b", "hf_overrides": {"num_hidden_layers": 8}}  # every other layer


@pytest.mark.parametrize(
    "spec", [DENSE, pytest.param(SLIDING, marks=pytest.mark.slow)], ids=["dense", "sliding"]
)
def test_a_repeated_layer_launches_what_a_run_one_does(
    tmp_path: Path, emulate: Callable[..., Any], spec: dict
) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    usual, repeated = (
        emulate([program, way, json.dumps(spec)], "--cpu-time", "free") for way in ("usual", "repeated")
    )
    assert not usual["calls"]
    assert len(repeated["calls"]) > 3
    assert min(repeated["calls"]) >= spec["hf_overrides"]["num_hidden_layers"] - 2
    assert repeated["ops"] == usual["ops"]
    assert repeated["launches"] == usual["launches"]
    assert repeated["busy_ns"] == usual["busy_ns"]
    assert repeated["peak_bytes"] == usual["peak_bytes"]
    # clocks: a read takes a nanosecond in `free`, and repeated layers read none
    assert repeated["virtual_ns"] == pytest.approx(usual["virtual_ns"], rel=1e-5)
