"""vLLM's multiprocessing executor with one worker that stands for all tensor-parallel ranks."""

from __future__ import annotations

from vllm.v1.executor.multiproc_executor import MultiprocExecutor


class FoldedExecutor(MultiprocExecutor):  # type: ignore[misc]
    """Starts rank 0 alone; its worker still believes in the whole world (`parallel_config.world_size`)."""

    def _get_parallel_sizes(self) -> tuple[int, int, int]:
        super()._get_parallel_sizes()
        self.world_size = self.local_world_size = 1
        return 1, 1, 1

    def _get_output_rank(self) -> int:
        return 0
