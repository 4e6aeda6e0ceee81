"""One worker for all tensor-parallel ranks gives what the ranks give."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.engines.test_vllm_offline import PROGRAM

pytestmark = [pytest.mark.engine, pytest.mark.timeout(900)]
CLOCK_READS_NS = 10_000  # in `free` each further clock read is a nanosecond, and fewer processes read


def with_two_ranks(option: str) -> str:
    return PROGRAM.replace("max_num_seqs=16,", f"max_num_seqs=16, {option}=2,")


def test_folded_ranks_give_the_times_of_separate_ones(tmp_path: Path, emulate: Callable[..., Any]) -> None:
    program = tmp_path / "ranks.py"
    program.write_text(with_two_ranks("tensor_parallel_size"))
    separate = emulate([program], "--gpus", "2", "--cpu-time", "free")
    folded = emulate([program], "--gpus", "2", "--cpu-time", "free", "--fold-ranks")
    assert folded["tokens"] == separate["tokens"] == [60] * 12
    assert abs(folded["virtual_ns"] - separate["virtual_ns"]) <= CLOCK_READS_NS


def test_ranks_that_do_different_work_are_not_folded(tmp_path: Path, attempt: Callable[..., Any]) -> None:
    program = tmp_path / "stages.py"
    program.write_text(with_two_ranks("pipeline_parallel_size"))
    done = attempt([program], "--gpus", "2", "--cpu-time", "free", "--fold-ranks")
    assert done.returncode != 0
    assert "pipeline_parallel_size is 2" in done.stdout + done.stderr
