"""The bookkeeping of sleep mode, without an engine: bytes that sleep are free, and moving them takes time."""

from __future__ import annotations

import json
import sys

import pytest

from revati.cli.main import run_main

pytest.importorskip("vllm")

PROGRAM = """
import json, time, torch
from revati.engines.vllm.sleeping import VirtualAllocator
GIB = 1 << 30
pool = VirtualAllocator.get_instance()
empty = lambda gib: torch.empty(gib * GIB, dtype=torch.uint8, device="cuda")
free = lambda: round(torch.cuda.mem_get_info()[0] / GIB)
before, seen = free(), {}
with pool.use_memory_pool("weights"): weights = empty(16)
with pool.use_memory_pool("runtime"):
    with pool.use_memory_pool("kv_cache"): cache = empty(40)
    rest = empty(1)
seen["usage"] = pool.get_current_usage() // GIB
begin = time.monotonic()
pool.sleep(("weights", "runtime"))
seen["asleep"], seen["sleep_s"] = before - free(), time.monotonic() - begin
pool.sleep(("weights", "runtime"))
seen["twice"] = before - free()
pool.wake_up(["weights"])
seen["weights_awake"] = before - free()
pool.wake_up()
seen["awake"] = before - free()
print(json.dumps(seen))
"""


def test_bytes_that_sleep_are_free_once(capfd: pytest.CaptureFixture[str]) -> None:
    line = ["run", "--gpu", "h100_sxm", "--cpu-time", "free", "--", sys.executable, "-c", PROGRAM]
    assert run_main(line) == 0
    seen = json.loads(capfd.readouterr().out.splitlines()[-1])
    # What is neither weights nor KV cache wakes up with anything.
    assert (seen["usage"], seen["asleep"], seen["twice"], seen["weights_awake"], seen["awake"]) == (
        57, 0, 0, 17, 57,
    )  # fmt: skip
    assert 17 * 2**30 / 64e9 < seen["sleep_s"] < 1  # PCIe 5 x16 at most
