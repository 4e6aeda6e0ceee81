"""The scheduler decides on the virtual GPU as with any executor whose steps take the same time."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from revati.cli.environment import RunOptions
from revati.cli.world import run_world
from revati.models.catalogue import find_model
from revati.models.materialise import materialise

pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]

if importlib.util.find_spec("vllm") is None:
    pytest.skip("vLLM is not installed", allow_module_level=True)

ROOT = Path(__file__).resolve().parents[2]
PREFIX_TOKENS = 64


def prompt_tokens(number: int) -> int:
    """Length of a request of `programs/schedule_trace.py`."""
    return PREFIX_TOKENS + 40 + 23 * number % 300


def schedule(worker: str, folder: Path) -> list[dict[str, Any]]:
    folder.joinpath(worker).mkdir(mode=0o700)
    entry = find_model("meta-llama/Llama-3.1-8B-Instruct")
    assert entry is not None
    spec = {
        "model": str(materialise(entry)),
        "worker": worker,
        "schedule": str(folder / f"{worker}.jsonl"),
        "times": str(folder / "times.jsonl"),
        "output": str(folder / f"{worker}.json"),
    }
    file = folder / f"{worker}-spec.json"
    file.write_text(json.dumps(spec))
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    world = run_world(
        [sys.executable, "-m", "tests.engines.programs.schedule_trace", str(file)],
        RunOptions("h100_sxm", cpu_time="free", exit_when_stuck=True),
        run_dir=folder / worker,
        base_env=env,
    )
    assert world.exit_code == 0
    rows = [json.loads(line) for line in Path(spec["schedule"]).read_text().splitlines()]
    return [{name: value for name, value in row.items() if name != "at_ns"} for row in rows]


def test_a_thousand_steps_are_scheduled_as_with_a_stub_executor(tmp_path: Path) -> None:
    virtual, stub = schedule("virtual", tmp_path), schedule("stub", tmp_path)
    for number, (ours, theirs) in enumerate(zip(virtual, stub, strict=False)):
        assert ours == theirs, f"step {number}"
    assert len(virtual) == len(stub) >= 1000
    assert sum(bool(step["preempted"]) for step in virtual) > 10
    first: dict[str, int] = {}
    for step in virtual:
        for request, count in step["tokens"].items():
            first.setdefault(request, count)
    hits = [r for r, count in first.items() if count == prompt_tokens(int(r[1:])) - PREFIX_TOKENS]
    assert len(hits) > 10  # prefixes that were in the cache
