"""vLLM's own GPU worker, which also writes down what its memory profiling found.

Used by `benchmarks/kv_capacity.py` through vLLM's `worker_cls`. CUDA graphs are not captured after the
profiling: no request is served.
"""

from __future__ import annotations

import json
import os
from typing import Any

from vllm.v1.worker import gpu_worker
from vllm.v1.worker.worker_base import CompilationTimes

from benchmarks.kv_capacity import REPORT_ENV


class MemoryWorker(gpu_worker.Worker):  # type: ignore[misc]
    """Writes `$REVATI_MEMORY_REPORT`; bytes."""

    def determine_available_memory(self) -> int:
        """As vLLM's."""
        found: list[Any] = []
        inner = gpu_worker.memory_profiling

        class Keeping:
            """`memory_profiling`, whose result is kept."""

            def __init__(self, *args: Any, **kwargs: Any) -> None:
                self.manager = inner(*args, **kwargs)

            def __enter__(self) -> Any:
                found.append(self.manager.__enter__())
                return found[-1]

            def __exit__(self, *reason: Any) -> Any:
                return self.manager.__exit__(*reason)

        gpu_worker.memory_profiling = Keeping
        try:
            available = super().determine_available_memory()
        finally:
            gpu_worker.memory_profiling = inner
        (result,) = found
        if self.rank == 0:
            report = {
                "requested_bytes": int(self.requested_memory),
                "weights_bytes": int(result.weights_memory),
                "torch_peak_increase_bytes": int(result.torch_peak_increase),
                "non_torch_increase_bytes": int(result.non_torch_increase),
                "consumed_bytes": int(result.total_consumed),
                "transient_bytes": int(result.transient_peak_headroom),
                "graph_estimate_bytes": int(self.cudagraph_memory_estimate),
                "available_bytes": int(available),
                "context_bytes": int(result.before_create.cuda_memory),
            }
            with open(os.environ[REPORT_ENV], "w") as file:
                json.dump(report, file)
        return int(available)

    def compile_or_warm_up_model(self) -> CompilationTimes:
        """Nothing: the capacity is known."""
        return CompilationTimes(language_model=0.0, encoder=0.0)
