"""`vllm bench serve` of a vLLM that draws both lengths of random requests with one ratio: each has its own.

`--random-range-ratio` takes a ratio for each side since vLLM 0.13; some cases need that.
"""

from __future__ import annotations

import json
import os
from typing import Any

RATIOS = "REVATI_BENCH_RANGE_RATIOS"
"""Environment variable: {"input": ratio, "output": ratio} as JSON."""


def main() -> None:
    """Run the client of a benchmark with the ratios of the environment."""
    from vllm.benchmarks.datasets import RandomDataset

    from revati.bench.client import main as run_client

    ratios = json.loads(os.environ[RATIOS])
    draw = RandomDataset.get_sampling_params

    def get_sampling_params(
        self: Any, num_requests: int, range_ratio: float, input_len: int, output_len: int, tokenizer: Any
    ) -> tuple[Any, Any, Any]:
        inputs, _, offsets = draw(self, num_requests, ratios["input"], input_len, output_len, tokenizer)
        _, outputs, _ = draw(self, num_requests, ratios["output"], input_len, output_len, tokenizer)
        return inputs, outputs, offsets

    RandomDataset.get_sampling_params = get_sampling_params
    run_client()


if __name__ == "__main__":
    main()
