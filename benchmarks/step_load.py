"""A vLLM whose steps take a known time, under a small load: when did each request and each token come?

`python -m benchmarks.step_load SPEC`: SPEC is a JSON file with `engine` ("async", "offline" or "served":
the engine's server and its own client), `model`, `step_ms`, `overlap` (schedule while the device works),
`rounds`, `requests` (in each round), `gap_ms` (between arrivals; "async" only), `concurrency` ("served"
only: so many requests are under way at any time), `prompt_tokens`, `output_tokens` and `output`. The
result lists, for every round and request, the seconds at which it arrived, its tokens came ("offline":
its first and last) and it ended.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from itertools import accumulate
from pathlib import Path
from typing import Any

from revati.bench.driver import is_healthy
from revati.bench.plan import LOOPBACK, VLLM, free_port

_PAUSE_S = 0.1


def _engine_args(spec: dict[str, Any]) -> dict[str, Any]:
    return {
        "model": spec["model"],
        "load_format": "dummy",
        "max_model_len": 2048,
        "max_num_seqs": 64,
        "worker_cls": "benchmarks.step_worker.StepWorker",
        "additional_config": {"step_ms": spec["step_ms"]},
        "async_scheduling": spec["overlap"],
        "enable_prefix_caching": False,
        "disable_log_stats": False,
    }


def _prompt(number: int, spec: dict[str, Any]) -> dict[str, list[int]]:
    ids = [2000 + (number * 7919 + position) % 20000 for position in range(spec["prompt_tokens"])]
    return {"prompt_token_ids": ids}


def _parameters(output_tokens: int) -> Any:
    from vllm import SamplingParams

    return SamplingParams(max_tokens=output_tokens, ignore_eos=True, temperature=0.0)


async def _async(spec: dict[str, Any]) -> list[list[dict[str, Any]]]:
    from vllm import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

    engine = AsyncLLM.from_engine_args(AsyncEngineArgs(**_engine_args(spec)))

    async def one(name: str, number: int, output_tokens: int, start_s: float = 0.0) -> dict[str, Any]:
        await asyncio.sleep(max(0.0, start_s - time.monotonic()))
        arrival_s, token_s = time.monotonic(), []
        async for output in engine.generate(
            _prompt(number, spec), _parameters(output_tokens), request_id=f"{name}-{number}"
        ):
            new = len(output.outputs[0].token_ids) - len(token_s)
            token_s += [time.monotonic()] * new
        return {"arrival_s": arrival_s, "token_s": token_s, "end_s": time.monotonic()}

    await asyncio.gather(*[one("first-use", number, 4) for number in range(4)])
    rounds = []
    for turn in range(spec["rounds"]):
        begin_s, gap_s = time.monotonic() + _PAUSE_S, spec["gap_ms"] / 1e3
        requests = [
            one(f"round-{turn}", number, spec["output_tokens"], begin_s + number * gap_s)
            for number in range(spec["requests"])
        ]
        rounds.append(list(await asyncio.gather(*requests)))
    engine.shutdown(timeout=30.0)
    return rounds


def _offline(spec: dict[str, Any]) -> list[list[dict[str, Any]]]:
    from vllm import LLM

    llm = LLM(**_engine_args(spec))
    prompts = [_prompt(number, spec) for number in range(spec["requests"])]
    llm.generate(prompts[:4], _parameters(4), use_tqdm=False)
    rounds = []
    for _ in range(spec["rounds"]):
        # After its last step the engine core yields for 1 ms (vLLM's `_process_engine_step`), so the next
        # call's requests would wait for it: begin with an idle engine, as "async" does.
        time.sleep(_PAUSE_S)
        begin_s = time.monotonic()
        outputs = llm.generate(prompts, _parameters(spec["output_tokens"]), use_tqdm=False)
        end_s = time.monotonic()
        seen = [[output.metrics.first_token_ts, output.metrics.last_token_ts] for output in outputs]
        rounds.append([{"arrival_s": begin_s, "token_s": tokens, "end_s": end_s} for tokens in seen])
    return rounds


def _served(spec: dict[str, Any]) -> list[list[dict[str, Any]]]:
    port, folder = free_port(), Path(spec["output"]).parent
    command = [*VLLM, "serve", spec["model"], "--port", str(port)]
    for name, value in _engine_args(spec).items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            command.append(f"--{flag}" if value else f"--no-{flag}")
        elif name != "model":
            command += [f"--{flag}", json.dumps(value) if isinstance(value, dict) else str(value)]
    command.remove("--no-disable-log-stats")  # a server keeps them anyway, and has no such flag
    server = subprocess.Popen(command)
    try:
        _await_server(server, port)
        return [_client_round(spec, port, folder, turn) for turn in range(spec["rounds"])]
    finally:
        server.terminate()
        server.wait()


def _await_server(server: subprocess.Popen[bytes], port: int) -> None:
    while not is_healthy(f"http://{LOOPBACK}:{port}"):
        if server.poll() is not None:
            raise SystemExit(f"the server ended with code {server.returncode}")
        time.sleep(0.2)


def _client_round(spec: dict[str, Any], port: int, folder: Path, turn: int) -> list[dict[str, Any]]:
    from vllm.benchmarks import serve
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    parser = FlexibleArgumentParser()
    serve.add_cli_args(parser)
    flags = f"--backend vllm --port {port} --dataset-name random --ignore-eos --save-result --save-detailed"
    flags += f" --random-input-len {spec['prompt_tokens']} --random-output-len {spec['output_tokens']}"
    flags += f" --num-prompts {spec['requests']} --max-concurrency {spec['concurrency']} --seed {turn}"
    flags += f" --num-warmups {0 if turn else spec['concurrency']} --disable-tqdm"
    paths = ["--model", spec["model"], "--result-dir", str(folder), "--result-filename", "client.json"]
    serve.main(parser.parse_args([*flags.split(), *paths]))
    found = json.loads((folder / "client.json").read_text())
    rows = []
    for start_s, ttft_s, itls_s in zip(found["start_times"], found["ttfts"], found["itls"], strict=True):
        token_s = list(accumulate([start_s + ttft_s, *itls_s]))
        rows.append({"arrival_s": start_s, "token_s": token_s, "end_s": token_s[-1]})
    return rows


def main() -> None:
    """Carry out the spec whose file is the only argument."""
    spec = json.loads(Path(sys.argv[1]).read_text())
    engines = {"async": lambda: asyncio.run(_async(spec)), "offline": lambda: _offline(spec)}
    engines["served"] = lambda: _served(spec)
    Path(spec["output"]).write_text(json.dumps(engines[spec["engine"]]()))


if __name__ == "__main__":
    main()
