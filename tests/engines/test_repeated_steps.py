"""Equal decode steps are repeated instead of run: nothing but the wall time may show it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from statistics import median
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
    from revati.engines.vllm import steps

    repeated, may_repeat = [], True
    suitable, repeat_forward = steps.Steps._suitable, steps.Steps._repeat_forward

    def watched(self, noted, *rest):
        repeated.append(len(noted.req_ids))
        return repeat_forward(self, noted, *rest)

    steps.Steps._suitable = lambda self: may_repeat and suitable(self)
    steps.Steps._repeat_forward = watched

    spec = json.loads(sys.argv[2])
    sampling, compilation = spec.pop("sampling", {}), spec.pop("compilation_config", {})
    llm = LLM(
        model=str(materialise(find_model("meta-llama/Llama-3.1-8B"))), load_format="dummy",
        max_model_len=1024, max_num_seqs=8, max_num_batched_tokens=256,
        compilation_config={"cudagraph_capture_sizes": [1, 2, 4, 8], **compilation},
        **{"num_gpu_blocks_override": 400, "hf_overrides": {"num_hidden_layers": 4}, **spec},
    )
    prompts = [{"prompt_token_ids": [7 + i] * (10 + 60 * (i % 5))} for i in range(20)]
    lengths = [20 + 9 * (i % 7) for i in range(20)]
    common = {"ignore_eos": True, "detokenize": False}
    parameters = [SamplingParams(**{"max_tokens": n, **common, **sampling}) for n in lengths]

    def took():
        began_ns = time.monotonic_ns()
        outputs = llm.generate(prompts, parameters, use_tqdm=False)
        torch.cuda.synchronize()
        return time.monotonic_ns() - began_ns, [list(o.outputs[0].token_ids) for o in outputs]

    if sys.argv[1] == "both":
        times = {"usual": [], "repeated": []}
        for round in range(12):
            may_repeat = round % 2 == 0
            times["repeated" if may_repeat else "usual"].append(took()[0])
        print("RESULT " + json.dumps({"times_ns": times, "repeated": len(repeated)}), flush=True)
        sys.exit()

    may_repeat = sys.argv[1] == "repeated"
    _C.reset_stats()
    virtual_ns, tokens = took()
    ops = {}
    for name, family, confidence, shapes, count, total_ns in _C.op_stats():
        entry = ops.setdefault(f"{name} {shapes}", [0, 0])
        entry[0] += count
        entry[1] += total_ns
    print("RESULT " + json.dumps({
        "virtual_ns": virtual_ns, "ops": ops, "busy_ns": _C.busy_ns(), "launches": _C.launches(),
        "peak_bytes": torch.cuda.max_memory_allocated(), "tokens": tokens, "repeated": repeated,
    }), flush=True)
"""


@pytest.fixture
def served(tmp_path: Path, emulate: Callable[..., Any]) -> Callable[..., Any]:
    """What a load takes if equal steps are "repeated", if not ("usual"), or each in turn ("both")."""

    def run(way: str, spec: dict[str, Any], cpu_time: str = "free", **options: Any) -> Any:
        program = tmp_path / "program.py"
        program.write_text(PROGRAM)
        return emulate([program, way, json.dumps(spec)], "--cpu-time", cpu_time, **options)

    return run


@pytest.mark.parametrize(
    "spec",
    [
        pytest.param({}, id="plain"),
        pytest.param({"num_gpu_blocks_override": 70}, id="preempted"),
        pytest.param(
            {"sampling": {"temperature": 0.7, "top_p": 0.9, "repetition_penalty": 1.1, "min_tokens": 15}},
            id="sampled",
        ),
    ],
)
def test_a_repeated_step_launches_what_a_run_one_does(
    served: Callable[..., Any], spec: dict[str, Any]
) -> None:
    usual, repeated = served("usual", spec), served("repeated", spec)
    assert not usual["repeated"]
    assert len(repeated["repeated"]) > 30 and len(set(repeated["repeated"])) > 3
    assert repeated["tokens"] == usual["tokens"]
    assert repeated["ops"] == usual["ops"]
    assert repeated["launches"] == usual["launches"]
    assert repeated["busy_ns"] == usual["busy_ns"]
    assert repeated["peak_bytes"] == usual["peak_bytes"]
    # clocks: a read takes a nanosecond in `free`, and repeated steps read none
    assert repeated["virtual_ns"] == pytest.approx(usual["virtual_ns"], rel=1e-5)


@pytest.mark.parametrize(
    "spec",
    [
        pytest.param({"sampling": {"logprobs": 3}}, id="logprobs"),
        pytest.param({"compilation_config": {"cudagraph_mode": "PIECEWISE"}}, id="piecewise"),
        pytest.param({"enforce_eager": True}, id="eager"),
    ],
)
def test_steps_of_other_kinds_are_not_repeated(served: Callable[..., Any], spec: dict[str, Any]) -> None:
    assert not served("repeated", spec)["repeated"]


@pytest.mark.parametrize("switch", ["0", "layers"])
def test_no_step_is_repeated_where_that_is_switched_off(served: Callable[..., Any], switch: str) -> None:
    assert not served("repeated", {}, env={"REVATI_REPEAT": switch})["repeated"]


def test_a_switch_that_is_not_known_is_refused_in_one_line(
    tmp_path: Path, attempt: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    done = attempt([program, "repeated", "{}"], env={"REVATI_REPEAT": "no"})
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1].endswith(
        "REVATI_REPEAT='no', expected 0, 1, layers or steps; or unset it"
    )


def test_repeated_steps_take_the_host_what_full_ones_do(served: Callable[..., Any]) -> None:
    """One layer: the host is slower than the GPU, so its time is what a step takes."""
    spec = {"hf_overrides": {"num_hidden_layers": 1}, "sampling": {"max_tokens": 200}}
    assert not served("repeated", spec, "wall")["repeated"]  # only if it is asked for
    found = served("both", spec, "charged")
    assert found["repeated"] > 1000
    usual, repeated = (median(found["times_ns"][way]) for way in ("usual", "repeated"))
    assert repeated == pytest.approx(usual, rel=0.25)
