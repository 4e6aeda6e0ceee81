"""Runs inside the virtual world: an AsyncLLM in this process, requests with token ids at given arrival times.

`python -m benchmarks.accuracy.inprocess SPEC`: SPEC is a JSON file with `engine_args`, `requests` (a
JSON-lines file: input_tok_ids, output_toks, arrival_time_ns) and `output` (where each request's times go).
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Any


def read_requests(path: Path) -> list[dict[str, Any]]:
    """The recorded requests by arrival."""
    with path.open() as file:
        requests = [json.loads(line) for line in file if line.strip()]
    return sorted(requests, key=lambda request: int(request["arrival_time_ns"]))


def request_times(metrics: Any, tokens: int) -> dict[str, float]:
    """Engine-side times of one finished request, seconds of the (virtual) monotonic clock."""
    return {
        "queued_s": metrics.queued_ts,
        "first_token_s": metrics.first_token_ts,
        "last_token_s": metrics.last_token_ts,
        "output_tokens": float(tokens),
    }


async def _serve(spec: dict[str, Any]) -> dict[str, Any]:
    from vllm import AsyncEngineArgs, SamplingParams
    from vllm.inputs import TokensPrompt
    from vllm.v1.engine.async_llm import AsyncLLM

    requests = read_requests(Path(spec["requests"]))
    engine = AsyncLLM.from_engine_args(AsyncEngineArgs(**spec["engine_args"]))

    async def one(number: int, request: dict[str, Any], origin_s: float) -> dict[str, float]:
        await asyncio.sleep(max(0.0, origin_s + request["arrival_time_ns"] / 1e9 - time.monotonic()))
        parameters = SamplingParams(max_tokens=request["output_toks"], ignore_eos=True, temperature=0.0)
        prompt = TokensPrompt(prompt_token_ids=request["input_tok_ids"])
        last: Any = None
        async for output in engine.generate(prompt, parameters, request_id=f"bench-{number}"):
            last = output
        return request_times(last.metrics, len(last.outputs[0].token_ids))

    origin_s = time.monotonic() - requests[0]["arrival_time_ns"] / 1e9
    tasks = [asyncio.create_task(one(number, request, origin_s)) for number, request in enumerate(requests)]
    finished = await asyncio.gather(*tasks)
    blocks = engine.vllm_config.cache_config.num_gpu_blocks
    engine.shutdown(timeout=30.0)  # so that its processes end by themselves and report
    return {"requests": finished, "num_gpu_blocks": blocks}


def main() -> None:
    """Carry out the spec whose file is the only argument."""
    spec = json.loads(Path(sys.argv[1]).read_text())
    Path(spec["output"]).write_text(json.dumps(asyncio.run(_serve(spec))))


if __name__ == "__main__":
    main()
