"""A vLLM worker whose every step takes the same known time: a device that is busy, one step after the other.

Chosen by vLLM's own `worker_cls`; the length of a step is `additional_config["step_ms"]`. Everything else of
the engine is real, its overlap of scheduling and device included, so what its clients see is known: steps,
and the host's work where the device waits for it.
"""

from __future__ import annotations

import time
from typing import Any

from vllm.v1.outputs import AsyncModelRunnerOutput, ModelRunnerOutput

from benchmarks.floor_worker import FloorWorker


class _StepOutput(AsyncModelRunnerOutput):  # type: ignore[misc]
    """Tokens that are there once the device has done its step."""

    def __init__(self, output: ModelRunnerOutput, ready_s: float) -> None:
        self._output, self._ready_s = output, ready_s

    def get_output(self) -> ModelRunnerOutput:
        """Wait for the device."""
        time.sleep(max(0.0, self._ready_s - time.monotonic()))
        return self._output


class StepWorker(FloorWorker):
    """Has a queue of steps, as a stream has kernels."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._step_s = float(self.vllm_config.additional_config["step_ms"]) / 1e3
        self._is_async = self.vllm_config.scheduler_config.async_scheduling
        self._busy_until_s = 0.0

    def execute_model(self, scheduler_output: Any) -> ModelRunnerOutput | None:
        """Put one step on the queue; an empty schedule is not one."""
        if scheduler_output.total_num_scheduled_tokens:
            self._busy_until_s = max(self._busy_until_s, time.monotonic()) + self._step_s
        return super().execute_model(scheduler_output)

    def sample_tokens(self, grammar_output: Any) -> Any:
        """The step's tokens: a handle to wait on where the engine asks for that, else once they are there."""
        output = _StepOutput(super().sample_tokens(grammar_output), self._busy_until_s)
        return output if self._is_async else output.get_output()
