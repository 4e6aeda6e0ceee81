"""How fast is this machine's CPU at the work that a serving engine's host does?

A fixed single-threaded workload in the mix of a scheduler and an API server: interpreter loop, small objects,
dicts, lists, strings, hashes and JSON. Its thread CPU time on the emulated server over that on this machine
is what `--cpu-factor` takes.
"""

from __future__ import annotations

import json
import platform
import time
from collections import OrderedDict, deque
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from statistics import median
from typing import Any

WORKLOAD_VERSION = 1
"""Measurements of different versions cannot be compared."""
_STEPS = 120
_RUNNING = 24
_BLOCK_TOKENS = 16


@dataclass(frozen=True)
class Calibration:
    """One measurement: the median of several repeats of the workload, in seconds of thread CPU time."""

    cpu: str
    python: str
    work_s: float
    spread: float
    """Range of the middle half of the repeats over the median: large on a busy machine."""
    workload_version: int = WORKLOAD_VERSION

    def to_json(self) -> str:
        """What `read_calibration` reads."""
        return json.dumps(asdict(self), indent=1) + "\n"


REFERENCE = Calibration(
    cpu="AMD EPYC, family 25 model 17", python="3.11.2", work_s=0.0143, spread=0.01
)
"""The processor on which Revati is built and tested, with Debian's Python: built with
profile-guided optimisation, as those of servers' images are. docs/time.md says how it was measured."""


class CalibrationError(ValueError):
    """A reference file that is none; the message says what was expected."""


@dataclass
class _Request:
    """What a scheduler knows of a request."""

    name: str
    tokens: list[int]
    computed: int
    blocks: list[int]


def work(steps: int = _STEPS) -> int:
    """One pass of the workload: schedule, cache blocks, answer. Returns a checksum."""
    waiting = deque(_Request(f"cmpl-{n:08x}", list(range(n, n + 96)), 0, []) for n in range(64))
    running: list[_Request] = []
    free_blocks = deque(range(4096))
    cached: OrderedDict[int, int] = OrderedDict()
    checksum = 0
    for step in range(steps):
        while waiting and len(running) < _RUNNING:
            running.append(waiting.popleft())
        scheduled: dict[str, int] = {}
        for request in running:
            count = min(len(request.tokens) - request.computed, 48)
            wanted = (request.computed + count + _BLOCK_TOKENS - 1) // _BLOCK_TOKENS
            while len(request.blocks) < wanted:
                block = free_blocks.popleft()
                request.blocks.append(block)
                content = tuple(request.tokens[request.computed : request.computed + _BLOCK_TOKENS])
                cached[hash((block, content))] = block
            scheduled[request.name] = count
        messages = []
        for request in running:
            request.computed += scheduled[request.name]
            if request.computed == len(request.tokens):
                request.tokens.append((step * 7919 + request.computed) % 32000)
            text = f" token{request.tokens[-1]}"
            delta = {"index": 0, "delta": {"content": text}, "logprobs": None, "finish_reason": None}
            messages.append({"id": request.name, "object": "chat.completion.chunk", "choices": [delta]})
        lines = ["data: " + json.dumps(message) + "\n\n" for message in messages]
        checksum += sum(len(json.loads(line[6:])["choices"][0]["delta"]["content"]) for line in lines)
        done = [request for request in running if len(request.tokens) >= 130]
        for request in done:
            free_blocks.extend(request.blocks)
            waiting.append(_Request(request.name, request.tokens[:96], 0, []))
        running = [request for request in running if request not in done]
        running.sort(key=lambda request: (len(request.tokens), request.name))
        while len(cached) > 1024:
            cached.popitem(last=False)
    return checksum


def calibrate(repeats: int = 41) -> Calibration:
    """Measure this machine; takes a second or two."""
    work()
    times = sorted(timed_work_s() for _ in range(repeats))
    quarter = len(times) // 4
    middle_s = median(times)
    spread = (times[-1 - quarter] - times[quarter]) / middle_s
    return Calibration(cpu_name(), platform.python_version(), round(middle_s, 6), round(spread, 4))


def timed_work_s(steps: int = _STEPS) -> float:
    """Thread CPU time of one pass, seconds."""
    begin_s = time.thread_time()
    work(steps)
    return time.thread_time() - begin_s


def cpu_name() -> str:
    """Model name, family and model of the first processor."""
    found: dict[str, str] = {}
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        found.setdefault(name.strip(), value.strip())
    return (
        f"{found.get('model name', platform.machine())}, "
        f"family {found.get('cpu family', '?')} model {found.get('model', '?')}"
    )


def read_calibration(path: Path) -> Calibration:
    """Read what `revati doctor --calibrate --json` printed on another machine."""
    try:
        raw: Any = json.loads(path.read_text())
        raw = raw.get("calibration", raw)
        found = Calibration(**{field.name: raw[field.name] for field in fields(Calibration)})
        valid = isinstance(found.work_s, float) and found.work_s > 0
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        message = f"{path} is no output of `revati doctor --calibrate --json`: {error}"
        raise CalibrationError(message) from None
    if not valid:
        raise CalibrationError(f"{path}: work_s is {found.work_s!r}, expected seconds above 0")
    if found.workload_version != WORKLOAD_VERSION:
        raise CalibrationError(
            f"{path} has workload version {found.workload_version}, expected {WORKLOAD_VERSION}: "
            "run `revati doctor --calibrate --json` of this version there"
        )
    return found


def cpu_factor(measured: Calibration, reference: Calibration = REFERENCE) -> float:
    """Host CPU time of the reference machine over that of the measured one, for the same work."""
    return reference.work_s / measured.work_s
