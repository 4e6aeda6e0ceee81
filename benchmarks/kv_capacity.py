"""How many KV blocks vLLM finds room for on the virtual GPU, beside what was reported from real ones.

`python -m benchmarks.kv_capacity [CASE...]` starts vLLM once for each case, up to the point where it knows
its cache, and prints the terms. The reports come from other versions of vLLM, which count other things, so
there are two results: vLLM 0.32's own, and what its measured terms give by the rule of the reported version.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from revati.models.catalogue import find_model
from revati.models.materialise import materialise

REPORT_ENV = "REVATI_MEMORY_REPORT"  # file that `memory_worker` writes
_GIB = 1 << 30


@dataclass(frozen=True)
class Case:
    """One reported capacity, and the engine that was run.

    `rule`: "0.31" (all memory consumed, a transient peak, an estimate for CUDA graphs) or "0.19" (weights,
    growth of PyTorch's peak and of other memory; nothing for graphs).
    """

    name: str
    gpu: str
    model: str
    reported_blocks: int
    reported_by: str
    rule: str
    engine_args: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)


_V1 = {"VLLM_USE_V2_MODEL_RUNNER": "0"}
_NO_GRAPHS = {"VLLM_MEMORY_PROFILER_ESTIMATE_CUDAGRAPHS": "0"}  # as vLLM before 0.21; few captures save time
_FEW = {"compilation_config": {"cudagraph_capture_sizes": [1, 2]}}
_TRACES = "vLLM fork of early 2026, inference-sim training data, github.com/inference-sim"
# the server's default batch on an H100
_SERVER = {"max_num_seqs": 1024, "max_num_batched_tokens": 8192, "max_model_len": 16384}

CASES = (
    Case(
        "rtx4090-8b",
        "rtx4090",
        "meta-llama/Llama-3.1-8B",
        2588,
        "vLLM 0.19.0, LLMServingSim",
        "0.19",
        {"max_num_seqs": 256, "max_num_batched_tokens": 2048, "max_model_len": 32768, **_FEW},
        {**_V1, **_NO_GRAPHS},
    ),
    Case(
        "a100-8b",
        "a100_sxm",
        "meta-llama/Llama-3.1-8B-Instruct",
        28781,
        "vLLM 0.31.0, defaults of `vllm serve`",
        "0.31",
        {
            "max_num_seqs": 256,
            "max_num_batched_tokens": 2048,
            "max_model_len": 131072,
            "gpu_memory_utilization": 0.92,
        },
    ),
    Case(
        "h100-qwen3-8b",
        "h100_sxm",
        "Qwen/Qwen3-8B",
        377024 // 16,
        "vLLM 0.30.0, silybench-data",
        "0.31",
        _SERVER,
    ),
    Case(
        "h100-qwen3-8b-fp8",
        "h100_sxm",
        "Qwen/Qwen3-8B",
        430272 // 16,
        "vLLM 0.30.0, silybench-data",
        "0.31",
        {**_SERVER, "quantization": "fp8"},
    ),
    Case(
        "h100-70b-tp4-8192",
        "h100_sxm",
        "meta-llama/Llama-3.1-70B-Instruct",
        30251,
        _TRACES,
        "0.19",
        {
            "tensor_parallel_size": 4,
            "max_num_seqs": 128,
            "max_num_batched_tokens": 8192,
            "max_model_len": 4096,
            **_FEW,
        },
        {**_V1, **_NO_GRAPHS},
    ),
    Case(
        "h100-70b-tp4-2048",
        "h100_sxm",
        "meta-llama/Llama-3.1-70B-Instruct",
        30425,
        _TRACES,
        "0.19",
        {
            "tensor_parallel_size": 4,
            "max_num_seqs": 128,
            "max_num_batched_tokens": 2048,
            "max_model_len": 4096,
            **_FEW,
        },
        {**_V1, **_NO_GRAPHS},
    ),
    Case(
        "h100-qwen7b",
        "h100_sxm",
        "Qwen/Qwen2.5-7B-Instruct",
        65352,
        _TRACES,
        "0.19",
        {"max_num_seqs": 128, "max_num_batched_tokens": 2048, "max_model_len": 4096, **_FEW},
        {**_V1, **_NO_GRAPHS},
    ),
)


@dataclass(frozen=True)
class Capacity:
    """What one start gave; `terms` are bytes, as `memory_worker` names them."""

    blocks: int
    block_bytes: int
    terms: dict[str, int]

    def blocks_by(self, rule: str) -> int:
        """Blocks by the accounting of another version of vLLM, from the same measured terms."""
        if rule == "0.31":
            return self.blocks
        t = self.terms
        taken = t["weights_bytes"] + t["torch_peak_increase_bytes"] + t["non_torch_increase_bytes"]
        return (t["requested_bytes"] - taken) // self.block_bytes


def measure(case: Case) -> Capacity:
    """Start vLLM for `case` in a run of its own, ranks folded.

    Raises:
        RuntimeError: the run failed; the message holds the end of what it printed.
    """
    args = {
        "model": str(materialise(find_model(case.model))),
        "load_format": "dummy",
        "gpu_memory_utilization": 0.9,
        "worker_cls": "benchmarks.memory_worker.MemoryWorker",
        **case.engine_args,
    }
    gpus = int(args.get("tensor_parallel_size", 1))
    with tempfile.TemporaryDirectory(prefix="revati-kv-") as folder:
        report, result = Path(folder) / "report.json", Path(folder) / "result.json"
        line = [sys.executable, "-m", "revati.cli.main", "run", "--gpu", case.gpu, "--gpus", str(gpus)]
        line += ["--cpu-time", "free", *(["--fold-ranks"] if gpus > 1 else []), "--"]
        line += [sys.executable, "-m", "benchmarks.kv_capacity", "--start", json.dumps(args), str(result)]
        environment = {**os.environ, **case.environment, REPORT_ENV: str(report)}
        root = str(Path(__file__).resolve().parents[1])
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, (root, environment.get("PYTHONPATH"))))
        done = subprocess.run(line, env=environment, capture_output=True, text=True)
        if done.returncode or not result.is_file():
            raise RuntimeError(f"{case.name}: vLLM did not start\n{done.stdout[-3000:]}{done.stderr[-3000:]}")
        found = json.loads(result.read_text())
        return Capacity(found["blocks"], found["block_bytes"], json.loads(report.read_text()))


def _start(args: dict[str, Any], result: Path) -> None:
    """Inside the run: make the engine and write what it found."""
    from vllm import LLM

    llm = LLM(**args)
    config = llm.llm_engine.vllm_config
    model, parallel = config.model_config, config.parallel_config
    block_bytes = (
        2
        * config.cache_config.block_size
        * model.get_num_layers(parallel)
        * model.get_num_kv_heads(parallel)
        * model.get_head_size()
        * model.dtype.itemsize
    )
    found = {"blocks": config.cache_config.num_gpu_blocks, "block_bytes": block_bytes}
    result.write_text(json.dumps(found))


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kv_capacity", description=__doc__)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=", ".join(case.name for case in CASES))
    parser.add_argument("--start", nargs=2, metavar=("ARGS", "RESULT"), help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.start:
        _start(json.loads(options.start[0]), Path(options.start[1]))
        return 0
    known = {case.name: case for case in CASES}
    for name in options.cases:
        if name not in known:
            parser.error(f"unknown case {name!r}; known: {', '.join(known)}")
    table = Table(box=box.SIMPLE)
    for column in ("case", "reported", "vLLM 0.32", "by the reported version's rule", "difference"):
        table.add_column(column, justify="left" if column == "case" else "right")
    for name in options.cases or known:
        case = known[name]
        found = measure(case)
        same = found.blocks_by(case.rule)
        difference = (same / case.reported_blocks - 1) * 100
        terms = ", ".join(
            f"{key.removesuffix('_bytes')} {value / _GIB:.3f}" for key, value in found.terms.items()
        )
        print(
            f"{name}: {found.blocks} blocks, {same} by the rule of {case.reported_by}; GiB: {terms}",
            flush=True,
        )
        table.add_row(name, str(case.reported_blocks), str(found.blocks), str(same), f"{difference:+.2f}%")
    Console(width=110).print(table)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
