"""Real vLLM whose steps take a known time: in `free` every token comes at an exact multiple of it."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.charged import play

pytest.importorskip("vllm")
pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]

STEP_S = 0.02
TOLERANCE_S = 1e-6  # one nanosecond a clock read
TOKENS = 40


def run(engine: str, overlap: bool = True) -> list[dict[str, Any]]:
    spec = {
        "engine": engine,
        "step_ms": STEP_S * 1e3,
        "overlap": overlap,
        "rounds": 1,
        "requests": 8,
        "gap_ms": 33,
        "prompt_tokens": 64,
        "output_tokens": TOKENS,
    }
    (requests,) = play(spec, "free")
    assert len(requests) == 8
    return requests


@pytest.mark.parametrize("overlap", [True, False])
def test_every_token_of_async_llm_comes_exactly_one_step_after_the_last(overlap: bool) -> None:
    for request in run("async", overlap):
        times = request["token_s"]
        assert len(times) == TOKENS
        for number, time_s in enumerate(times):
            assert time_s - times[0] == pytest.approx(number * STEP_S, abs=TOLERANCE_S)
        assert request["end_s"] == pytest.approx(times[-1], abs=TOLERANCE_S)
        wait_s = times[0] - request["arrival_s"]  # the rest of one or two steps, and one of its own
        assert STEP_S - TOLERANCE_S <= wait_s <= 3 * STEP_S + TOLERANCE_S


def test_offline_llm_takes_exactly_its_steps_and_reruns_are_identical() -> None:
    requests = run("offline")
    first, last = requests[0]["token_s"]
    assert last - first == pytest.approx((TOKENS - 1) * STEP_S, abs=TOLERANCE_S)
    steps = (requests[0]["end_s"] - requests[0]["arrival_s"]) / STEP_S
    assert round(steps) in (TOKENS, TOKENS + 1)  # requests of one call may be admitted in two steps
    assert steps == pytest.approx(round(steps), abs=TOLERANCE_S / STEP_S)
    assert run("offline") == requests
