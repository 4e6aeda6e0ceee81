"""`python -m revati.engines.vllm.record_ops MODEL_DIR RANKS`: vLLM runs until every kind of op was launched.

Two layers stand for all: their shapes are the same. Start-up captures graphs for the usual decode batches and
profiles one step of the largest token count; the requests add chunked prefills and mixed steps.
"""

from __future__ import annotations

import sys
from typing import Any

PROMPTS = (700, 40, 300, 5)
MAX_TOKENS = 8192


def main() -> None:
    """Start the engine on the model folder, serve a few requests of token ids, stop."""
    from vllm import LLM, SamplingParams

    folder, ranks = sys.argv[1], int(sys.argv[2])
    llm = LLM(
        model=folder,
        load_format="dummy",
        skip_tokenizer_init=True,
        tensor_parallel_size=ranks,
        hf_overrides={"num_hidden_layers": 2},
        max_model_len=2048,
        max_num_batched_tokens=MAX_TOKENS,
        num_gpu_blocks_override=2048,
        compilation_config={
            "backend": "eager", "custom_ops": ["all"], "cudagraph_capture_sizes": [1, 8, 64, 256],
        },
    )  # fmt: skip
    prompts: Any = [{"prompt_token_ids": [3] * length} for length in PROMPTS]
    sampling = SamplingParams(max_tokens=4, ignore_eos=True, detokenize=False)
    llm.generate(prompts, sampling, use_tqdm=False)


if __name__ == "__main__":
    main()
