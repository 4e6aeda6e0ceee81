"""Repeated layers take the host time that is missing to a call in which none is repeated."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

PROGRAM = """
import json, time, torch
from revati.engines.vllm.repeat_cost import RepeatCost, host_ns

def took_ns(ms):
    began_ns, until_s = host_ns(), time.thread_time() + ms / 1e3
    while time.thread_time() < until_s:
        pass
    return host_ns() - began_ns

cost = RepeatCost()
shares, due = [cost.share("way")], []
for call in range(64):
    due.append(cost.full_call_is_due("way"))
    if due[-1]:
        cost.note_full("way", took_ns(6))
    else:
        cost.note_repeating("way", took_ns(1), 10 * took_ns(1))
    shares.append(cost.share("way"))
print("RESULT " + json.dumps({"shares": shares, "due": due, "other": cost.share("other")}))
"""


@pytest.fixture
def learned(tmp_path: Path, emulate: Callable[..., Any]) -> Callable[[str], Any]:
    """What PROGRAM learns where CPU time counts in this way."""

    def run(cpu_time: str) -> Any:
        program = tmp_path / "program.py"
        program.write_text(PROGRAM)
        return emulate([program], "--cpu-time", cpu_time)

    return run


def test_what_repeated_layers_take_is_learned_where_cpu_time_counts(learned: Callable[[str], Any]) -> None:
    found = learned("charged")
    assert found["due"][:6] == [True, False] * 3
    assert 2 <= sum(found["due"][16:]) <= 4
    assert found["shares"][:2] == [1.0, 1.0] and found["other"] == 1.0
    # a call in full takes 6 ms, one that repeats 1 ms besides its ten layers, each watched at 1 ms
    assert found["shares"][-1] == pytest.approx(0.5, rel=0.1)


def test_nothing_is_learned_where_work_is_free(learned: Callable[[str], Any]) -> None:
    found = learned("free")
    assert not any(found["due"]) and set(found["shares"]) == {1.0}


REFUND = """
import json, time, torch
from revati import _C

x = torch.zeros(8, device="cuda")
torch.cuda.synchronize()
began_ns, own_ns = time.monotonic_ns(), _C.host_own_ns()
_C.refund_host_ns(1_000_000)
refunded_ns = own_ns - _C.host_own_ns()
events = [torch.cuda.Event(enable_timing=True) for _ in range(4)]
for event in events:
    x.add_(1)
    event.record()
torch.cuda.synchronize()
apart_ms = [a.elapsed_time(b) for a, b in zip(events, events[1:])]
print("RESULT " + json.dumps({
    "refunded_ns": refunded_ns, "apart_ms": apart_ms, "clock_ns": time.monotonic_ns() - began_ns,
}))
"""


@pytest.mark.parametrize(("cpu_time", "refunded_ns"), [("charged", 1_000_000), ("free", 0)])
def test_a_refund_is_taken_off_where_cpu_time_counts_and_no_clock_goes_back(
    tmp_path: Path, emulate: Callable[..., Any], cpu_time: str, refunded_ns: int
) -> None:
    program = tmp_path / "program.py"
    program.write_text(REFUND)
    found = emulate([program], "--cpu-time", cpu_time)
    assert found["refunded_ns"] == pytest.approx(refunded_ns, abs=100_000)
    assert min(found["apart_ms"]) > 0
    assert found["clock_ns"] > 0
