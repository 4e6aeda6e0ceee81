"""The load of the speed benchmark: an AsyncLLM in this process, a closed loop of equal requests.

`python -m benchmarks.speed_load SPEC`: SPEC is a JSON file with `engine_args`, `concurrency`, `requests`,
`prompt_tokens`, `output_tokens`, `repeats` and `output`. Start-up and a short warm-up are not timed. One
engine serves the load `repeats` times, each time with new prompts; medians are reported, and how many
outputs the requests got: vLLM hands over tokens that a consumer was too slow to fetch as one output.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.fetched_tokens import FETCHED_ENV, FetchedTokens
from revati.bench.client import real_seconds


async def _run(spec: dict[str, Any]) -> dict[str, float]:
    from vllm import AsyncEngineArgs, SamplingParams
    from vllm.inputs import TokensPrompt
    from vllm.v1.engine.async_llm import AsyncLLM

    engine = AsyncLLM.from_engine_args(AsyncEngineArgs(**spec["engine_args"]))
    gate = asyncio.Semaphore(spec["concurrency"])
    counted = os.environ.get(FETCHED_ENV)
    fetched = FetchedTokens(Path(counted)) if counted else None

    async def one(number: int, output_tokens: int) -> int:
        ids = [2000 + (number * 7919 + position) % 20000 for position in range(spec["prompt_tokens"])]
        parameters = SamplingParams(max_tokens=output_tokens, ignore_eos=True, temperature=0.0)
        async with gate:
            prompt, outputs, known = TokensPrompt(prompt_token_ids=ids), 0, 0
            async for output in engine.generate(prompt, parameters, request_id=f"speed-{number}"):
                outputs += 1
                if fetched is not None:
                    tokens = len(output.outputs[0].token_ids)
                    fetched.add(tokens - known)
                    known = tokens
            return outputs

    warm_up = spec["concurrency"]
    await asyncio.gather(*[one(number, 4) for number in range(warm_up)])
    load_s, wall_s, outputs, requests = [], [], [], spec["requests"]
    for repeat in range(spec["repeats"]):
        first = warm_up + repeat * requests
        begin_s, begin_wall_s = time.monotonic(), real_seconds()
        counts = await asyncio.gather(
            *[one(first + number, spec["output_tokens"]) for number in range(requests)]
        )
        outputs.append(sum(counts))
        load_s.append(time.monotonic() - begin_s)
        wall_s.append(real_seconds() - begin_wall_s)
    engine.shutdown(timeout=30.0)  # so that its processes end by themselves and report
    return {"load_s": median(load_s), "wall_s": median(wall_s), "outputs": median(outputs)}


def main() -> None:
    """Carry out the spec whose file is the only argument."""
    spec = json.loads(Path(sys.argv[1]).read_text())
    Path(spec["output"]).write_text(json.dumps(asyncio.run(_run(spec))))


if __name__ == "__main__":
    main()
