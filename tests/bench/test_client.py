"""The early end of a load: what finished is kept, what is under way ends, nothing else begins."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest

from revati.bench.client import INTERRUPTED, EarlyEnd


def play(requests: int, answers: int) -> list[Any]:
    """Outputs of a load with a request every 10 ms; the first `answers` are answered at once, the rest never.

    Once those have their answers and another is under way, this process gets an interrupt.
    """
    end = EarlyEnd()

    async def due() -> AsyncIterator[int]:
        for number in range(requests):
            yield number
            await asyncio.sleep(0.01)

    async def send(request_func_input: Any, session: Any, pbar: Any = None) -> Any:
        if request_func_input.number < answers:
            return SimpleNamespace(success=True, error="")
        os.kill(os.getpid(), signal.SIGINT)
        await asyncio.sleep(3600)

    async def load() -> list[Any]:
        tasks = []
        request = end.request(send, SimpleNamespace)
        async for number in end.sent(due)():
            wanted = SimpleNamespace(number=number, prompt_len=7)
            tasks.append(asyncio.ensure_future(request(request_func_input=wanted, session=None)))
        return list(await asyncio.gather(*tasks))

    return asyncio.run(end.listening(load)())  # type: ignore[arg-type]


def test_what_finished_is_kept_and_nothing_else_begins() -> None:
    outputs = play(requests=1000, answers=3)
    assert [o.success for o in outputs[:3]] == [True] * 3
    assert len(outputs) <= 6
    assert all((o.error, o.prompt_len) == (INTERRUPTED, 7) and o.start_time > 0 for o in outputs[3:])


def test_a_load_to_its_end_is_left_alone() -> None:
    assert [o.success for o in play(requests=4, answers=4)] == [True] * 4


def test_a_request_that_others_cancel_is_cancelled() -> None:
    async def send(request_func_input: Any, session: Any, pbar: Any = None) -> Any:
        await asyncio.sleep(3600)

    async def main() -> bool:
        task = asyncio.ensure_future(EarlyEnd().request(send, SimpleNamespace)(None, None))
        await asyncio.sleep(0)
        task.cancel()
        return bool((await asyncio.wait({task}))[0].pop().cancelled())

    assert asyncio.run(main())


@pytest.mark.parametrize(
    ("word", "code", "message"), [(b"go\n", 7, b""), (b"", 1, b"before the server was ready")]
)
def test_the_word_at_the_gate_holds_for_forks_too(word: bytes, code: int, message: bytes) -> None:
    program = (
        "import os; from revati.bench.client import wait_at_gate; wait_at_gate()\n"
        "if os.fork() == 0: wait_at_gate(); os._exit(7)\n"
        "raise SystemExit(os.waitstatus_to_exitcode(os.wait()[1]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], input=word, capture_output=True, check=False, timeout=30
    )
    assert done.returncode == code
    assert message in done.stderr and b"Traceback" not in done.stderr
