"""KV blocks that vLLM finds room for, against reports from real GPUs."""

from __future__ import annotations

import pytest

from benchmarks.kv_capacity import CASES, Capacity, measure

REPORTED = {case.name: case for case in CASES}


def test_the_older_rule_counts_weights_the_peak_and_what_is_outside_torch() -> None:
    terms = {
        "requested_bytes": 1000,
        "weights_bytes": 500,
        "torch_peak_increase_bytes": 100,
        "non_torch_increase_bytes": 50,
    }
    found = Capacity(blocks=20, block_bytes=10, terms=terms)
    assert found.blocks_by("0.19") == 35
    assert found.blocks_by("0.31") == 20


@pytest.mark.engine
@pytest.mark.slow
@pytest.mark.timeout(2400)
@pytest.mark.parametrize("name", ["rtx4090-8b", "a100-8b"])
def test_blocks_within_two_percent_of_a_real_gpu(name: str) -> None:
    case = REPORTED[name]
    assert measure(case).blocks_by(case.rule) == pytest.approx(case.reported_blocks, rel=0.02)
