"""A vLLM worker that computes nothing and returns at once: what remains is the engine, the floor of speed.

Used by `benchmarks/speed.py` through vLLM's `worker_cls`; scheduling is real, sampled tokens are fixed. With
$FLOOR_FETCHED, a file that holds how many tokens were fetched (`FetchedTokens`), it waits for whoever fetches
them: at most two steps are ahead, as many as asynchronous scheduling has under way.
"""

from __future__ import annotations

import os
import time
from collections import deque
from pathlib import Path
from typing import Any

from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheSpec
from vllm.v1.outputs import ModelRunnerOutput
from vllm.v1.worker.worker_base import CompilationTimes, WorkerBase

from benchmarks.fetched_tokens import FETCHED_ENV, FetchedTokens

_TOKEN_ID = 1000
_MEMORY_BYTES = 60 << 30  # as a GPU with 80 GB leaves beside an 8B model


class FloorWorker(WorkerBase):  # type: ignore[misc]
    """Knows the model's shape and nothing else."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._known_tokens: dict[str, int] = {}  # prompt and output tokens of each running request
        self._output: ModelRunnerOutput | None = None
        path = os.environ.get(FETCHED_ENV)
        self._fetched = FetchedTokens(Path(path)) if path else None
        self._made: deque[int] = deque([0, 0], maxlen=2)  # tokens up to the last two steps

    def init_device(self) -> None:
        """No device is used, but vLLM's thread that copies outputs selects one."""
        import torch

        self.device = torch.device("cuda", self.local_rank)

    def load_model(self, *, load_dummy_weights: bool = False) -> None:
        """No model."""

    def synchronize_device(self) -> None:
        """Nothing is ever in flight."""

    def get_supported_tasks(self) -> tuple[str, ...]:
        """Text generation only."""
        return ("generate",)

    def get_supported_kv_cache_layouts(self) -> list[str]:
        """Any would do; no cache is ever made."""
        return ["LBNHC"]

    def get_kv_cache_spec(self) -> dict[str, KVCacheSpec]:
        """One full-attention layer for each layer of the model."""
        import torch

        model, parallel = self.model_config, self.parallel_config
        spec = FullAttentionSpec(
            block_size=self.cache_config.block_size or 16,
            num_kv_heads=model.get_num_kv_heads(parallel),
            head_size=model.get_head_size(),
            dtype=torch.bfloat16,
        )
        return {f"layers.{number}.attn": spec for number in range(model.get_num_layers(parallel))}

    def determine_available_memory(self) -> int:
        """A fixed size, enough for every load of the benchmark."""
        return _MEMORY_BYTES

    def initialize_from_config(self, kv_cache_config: KVCacheConfig) -> None:
        """No cache."""

    def update_max_model_len(self, max_model_len: int) -> None:
        """Adopt a length that the engine core has settled on."""
        self.model_config.max_model_len = max_model_len

    def compile_or_warm_up_model(self) -> CompilationTimes:
        """Nothing to warm up."""
        return CompilationTimes(language_model=0.0, encoder=0.0)

    def execute_model(self, scheduler_output: Any) -> ModelRunnerOutput | None:
        """Decide on one token for every request whose known tokens are all computed after this step.

        As vLLM's own runner, it leaves the output to `sample_tokens`, but for a step without tokens.
        """
        computed: dict[str, int] = {}
        for new in scheduler_output.scheduled_new_reqs:
            self._known_tokens[new.req_id] = len(new.prompt_token_ids)
            computed[new.req_id] = new.num_computed_tokens
        cached = scheduler_output.scheduled_cached_reqs
        computed.update(zip(cached.req_ids, cached.num_computed_tokens, strict=True))
        names = list(scheduler_output.num_scheduled_tokens)
        sampled: list[list[int]] = []
        for name in names:
            done = computed[name] + scheduler_output.num_scheduled_tokens[name]
            if done >= self._known_tokens[name]:
                self._known_tokens[name] = done + 1
                sampled.append([_TOKEN_ID])
            else:
                sampled.append([])
        for name in scheduler_output.finished_req_ids:
            self._known_tokens.pop(name, None)
        output = ModelRunnerOutput(
            req_ids=names,
            req_id_to_index={name: index for index, name in enumerate(names)},
            sampled_token_ids=sampled,
        )
        if not names:
            return output
        self._output = output
        return None

    def sample_tokens(self, grammar_output: Any) -> ModelRunnerOutput | None:
        """The tokens of the step that `execute_model` began."""
        output, self._output = self._output, None
        if self._fetched is not None and output is not None:
            while self._fetched.count < self._made[0]:
                time.sleep(2e-5)
            self._made.append(self._made[1] + sum(map(len, output.sampled_token_ids)))
        return output

    def take_draft_token_ids(self) -> None:
        """No speculation."""

    def shutdown(self) -> None:
        """Nothing to free."""
