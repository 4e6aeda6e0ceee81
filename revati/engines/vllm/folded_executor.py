"""vLLM's multiprocessing executor with one worker that stands for all tensor-parallel ranks."""

from __future__ import annotations

import copy

from vllm.v1.executor.multiproc_executor import MultiprocExecutor


class FoldedExecutor(MultiprocExecutor):  # type: ignore[misc]
    """Starts rank 0 alone; its worker still believes in the whole world (`parallel_config.world_size`)."""

    def _init_executor(self) -> None:
        if not hasattr(MultiprocExecutor, "_get_parallel_sizes"):  # before 0.13 it reads the configuration
            self.parallel_config = copy.copy(self.parallel_config)  # the workers' is that of vllm_config
            self.parallel_config.world_size = self.parallel_config.tensor_parallel_size = 1
        super()._init_executor()

    def _get_parallel_sizes(self) -> tuple[int, int, int]:
        super()._get_parallel_sizes()
        self.world_size = self.local_world_size = 1
        return 1, 1, 1

    def _get_output_rank(self) -> int:
        return 0
