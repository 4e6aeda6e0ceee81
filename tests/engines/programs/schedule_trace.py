"""What vLLM's scheduler decides, step by step, on the virtual GPU and with a worker that only keeps the step
times.

`python schedule_trace.py SPEC`: SPEC is a JSON file with `model`, `worker` ("virtual" or "stub"),
`schedule` (a JSON-lines file to write: tokens of each request in each step), `times` (when each step
began and was done: written by the virtual GPU, read by the stub) and `output`. The load has shared
prefixes and more KV than fits.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.outputs import AsyncModelRunnerOutput, ModelRunnerOutput
from vllm.v1.worker.gpu_worker import Worker

from benchmarks.floor_worker import FloorWorker

_MODULE = "tests.engines.programs.schedule_trace"  # `__main__` here, another name in the engine's process
_SCHEDULE, _TIMES = "REVATI_TEST_SCHEDULE", "REVATI_TEST_TIMES"
PREFIXES, REQUESTS, BLOCKS = 4, 45, 160
GAP_S = 0.0041337


def _note(variable: str, row: Any) -> None:
    with open(os.environ[variable], "a") as file:
        file.write(json.dumps(row) + "\n")


def _name(request_id: str) -> str:
    return request_id.rpartition("-")[0]  # vLLM appends random digits to each id


class TracedScheduler(AsyncScheduler):  # type: ignore[misc]
    """vLLM's own scheduler, its decisions written down."""

    def schedule(self, *args: Any, **kwargs: Any) -> Any:
        output = super().schedule(*args, **kwargs)
        if output.total_num_scheduled_tokens:
            tokens = {_name(request): count for request, count in output.num_scheduled_tokens.items()}
            _note(
                _SCHEDULE,
                {
                    "at_ns": time.monotonic_ns(),
                    "tokens": tokens,
                    "preempted": sorted(map(_name, output.preempted_req_ids or ())),
                },
            )
        return output


class _Timed(AsyncModelRunnerOutput):  # type: ignore[misc]
    def __init__(self, output: AsyncModelRunnerOutput, step: int) -> None:
        self._output, self._step = output, step

    def get_output(self) -> ModelRunnerOutput:
        output = self._output.get_output()
        _note(_TIMES, ["done", self._step, time.monotonic_ns()])
        return output


class TimedWorker(Worker):  # type: ignore[misc]
    """vLLM's worker on the virtual GPU, with the times at which its calls return written down."""

    _step = 0

    def execute_model(self, scheduler_output: Any) -> Any:
        begin_ns = time.monotonic_ns()
        result = super().execute_model(scheduler_output)
        if scheduler_output.total_num_scheduled_tokens:
            self._step += 1
            _note(_TIMES, ["begun", self._step, begin_ns, time.monotonic_ns()])
        return result

    def sample_tokens(self, grammar_output: Any) -> Any:
        output = super().sample_tokens(grammar_output)
        _note(_TIMES, ["sampled", self._step, time.monotonic_ns()])
        return _Timed(output, self._step) if isinstance(output, AsyncModelRunnerOutput) else output


class _Stubbed(AsyncModelRunnerOutput):  # type: ignore[misc]
    def __init__(self, worker: StubWorker, output: ModelRunnerOutput, step: int) -> None:
        self._worker, self._output, self._step = worker, output, step

    def get_output(self) -> ModelRunnerOutput:
        self._worker.wait("done", self._step)
        return self._output


class StubWorker(FloorWorker):
    """No device: a step is done when it was on the virtual GPU, counted from the first step."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._origin_ns = 0
        self._due: dict[tuple[str, int], int] = {}
        for line in Path(os.environ[_TIMES]).read_text().splitlines():
            kind, step, *moments = json.loads(line)
            if kind == "begun":
                self._due["origin", step] = moments[0]
            self._due[kind, step] = moments[-1]
        self._first = min(
            step for kind, step in self._due if kind == "done"
        )  # after vLLM's own warm-up steps
        self._step = self._first - 1

    def wait(self, kind: str, step: int) -> None:
        """Sleep until the virtual GPU's worker had come so far."""
        due_ns = self._due[kind, step] - self._due["origin", self._first] + self._origin_ns
        time.sleep(max(0, due_ns - time.monotonic_ns()) / 1e9)

    def execute_model(self, scheduler_output: Any) -> Any:
        if scheduler_output.total_num_scheduled_tokens:
            self._step += 1
            self._origin_ns = self._origin_ns or time.monotonic_ns()
        result = super().execute_model(scheduler_output)
        if scheduler_output.total_num_scheduled_tokens:
            self.wait("begun", self._step)
        return result

    def sample_tokens(self, grammar_output: Any) -> Any:
        output = super().sample_tokens(grammar_output)
        if output is None:
            return None
        self.wait("sampled", self._step)
        return _Stubbed(self, output, self._step)


async def _serve(spec: dict[str, Any]) -> dict[str, Any]:
    from vllm import AsyncEngineArgs, SamplingParams
    from vllm.v1.engine.async_llm import AsyncLLM

    worker = "TimedWorker" if spec["worker"] == "virtual" else "StubWorker"
    engine = AsyncLLM.from_engine_args(
        AsyncEngineArgs(
            model=spec["model"],
            load_format="dummy",
            hf_overrides={"num_hidden_layers": 2},
            max_model_len=2048,
            max_num_seqs=32,
            max_num_batched_tokens=512,
            num_gpu_blocks_override=BLOCKS,
            worker_cls=f"{_MODULE}.{worker}",
            async_scheduling=True,
            scheduler_cls=f"{_MODULE}.TracedScheduler",
            compilation_config={"cudagraph_capture_sizes": [1, 8, 32]},
        )
    )
    arrivals = [asyncio.Event() for _ in range(REQUESTS)]
    loop = asyncio.get_running_loop()

    def arrive() -> None:
        """At exact times: a timer of asyncio may come with a step's tokens, and then who is first is open."""
        begin_s = time.monotonic() + 0.1
        for number, arrival in enumerate(arrivals):
            time.sleep(max(0.0, begin_s + number * GAP_S - time.monotonic()))
            loop.call_soon_threadsafe(arrival.set)

    threading.Thread(target=arrive, daemon=True).start()

    async def one(number: int) -> int:
        prefix = [100 + number % PREFIXES] * 64
        own = [1000 + (number * 7919 + k) % 20000 for k in range(40 + 23 * number % 300)]
        await arrivals[number].wait()
        parameters = SamplingParams(max_tokens=60 + 37 * number % 240, ignore_eos=True, temperature=0.0)
        last: Any = None
        async for output in engine.generate(
            {"prompt_token_ids": prefix + own}, parameters, request_id=f"r{number}"
        ):
            last = output
        return len(last.outputs[0].token_ids)

    tokens = await asyncio.gather(*[one(number) for number in range(REQUESTS)])
    engine.shutdown(timeout=30.0)
    return {"tokens": tokens}


def main() -> None:
    """Carry out the spec whose file is the only argument."""
    spec = json.loads(Path(sys.argv[1]).read_text())
    os.environ[_SCHEDULE], os.environ[_TIMES] = spec["schedule"], spec["times"]
    Path(spec["output"]).write_text(json.dumps(asyncio.run(_serve(spec))))


if __name__ == "__main__":
    main()
