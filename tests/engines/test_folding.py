"""One worker for all tensor-parallel ranks gives what the ranks give."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

pytestmark = [pytest.mark.engine, pytest.mark.timeout(900)]
CLOCK_READS_NS = 10_000  # in `free` each further clock read is a nanosecond, and fewer processes read


@pytest.fixture(scope="module")
def offline() -> ModuleType:
    import importlib.util

    spec = importlib.util.spec_from_file_location("offline", Path(__file__).with_name("test_vllm_offline.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.PROGRAM = module.PROGRAM.replace("max_num_seqs=16,", "max_num_seqs=16, tensor_parallel_size=2,")
    return module


def test_folded_ranks_give_the_times_of_separate_ones(offline: ModuleType, tmp_path: Path) -> None:
    separate = offline.run(tmp_path, "--gpus", "2", "--cpu-time", "free")
    folded = offline.run(tmp_path, "--gpus", "2", "--cpu-time", "free", "--fold-ranks")
    assert folded["tokens"] == separate["tokens"] == [60] * 12
    assert abs(folded["virtual_ns"] - separate["virtual_ns"]) <= CLOCK_READS_NS


def test_ranks_that_do_different_work_are_not_folded(offline: ModuleType, tmp_path: Path) -> None:
    program = tmp_path / "stages.py"
    program.write_text(offline.PROGRAM.replace("tensor_parallel_size=2", "pipeline_parallel_size=2"))
    line = [sys.executable, "-m", "revati.cli.main", "run", "--gpu", "h100_sxm", "--gpus", "2"]
    line += ["--cpu-time", "free", "--fold-ranks", "--", sys.executable, str(program)]
    done = subprocess.run(line, capture_output=True, text=True, timeout=600)
    assert done.returncode != 0
    assert "pipeline_parallel_size is 2" in done.stdout + done.stderr
