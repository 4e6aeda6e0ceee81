"""Talks to a vLLM server in the same run and prints what it saw as JSON: `python server_client.py URL MODEL`.

Metrics, a client that goes away in the middle of its answer, sleep and wake-up.
"""

from __future__ import annotations

import http.client
import json
import sys
import time
from typing import Any

TOKENS = 40
LONG = 2000


def call(address: str, method: str, path: str, body: dict[str, Any] | None = None) -> tuple[int, str]:
    """Status and text of one request."""
    connection = http.client.HTTPConnection(address, timeout=600)
    text = None if body is None else json.dumps(body)
    connection.request(method, path, text, {"Content-Type": "application/json"})
    answer = connection.getresponse()
    return answer.status, answer.read().decode()


def metric(address: str, name: str, **labels: str) -> float:
    """Sum of a metric's samples that have these labels."""
    wanted = [f'{key}="{value}"' for key, value in labels.items()]
    rows = call(address, "GET", "/metrics")[1].splitlines()
    rows = [row for row in rows if row.startswith(name + "{") and all(w in row for w in wanted)]
    return sum(float(row.rpartition(" ")[2]) for row in rows)


def completion(model: str, tokens: int, **more: Any) -> dict[str, Any]:
    """Body of a request for so many tokens."""
    return {"model": model, "prompt": "hello", "max_tokens": tokens, "ignore_eos": True, **more}


def main() -> None:
    """Wait for the server, then ask."""
    address, model = sys.argv[1:]
    while True:
        try:
            if call(address, "GET", "/health")[0] == 200:
                break
        except OSError:
            time.sleep(0.5)
    seen: dict[str, Any] = {}

    begin_s = time.monotonic()
    status, _ = call(address, "POST", "/v1/completions", completion(model, TOKENS))
    seen["client_s"] = time.monotonic() - begin_s
    seen["completion"] = status
    seen["engine_s"] = metric(address, "vllm:e2e_request_latency_seconds_sum")
    seen["generated"] = metric(address, "vllm:generation_tokens_total")

    connection = http.client.HTTPConnection(address, timeout=600)
    body = json.dumps(completion(model, LONG, stream=True))
    connection.request("POST", "/v1/completions", body, {"Content-Type": "application/json"})
    answer = connection.getresponse()
    seen["first_bytes"] = answer.read(20).decode()[:5]
    seen["running"] = metric(address, "vllm:num_requests_running")
    answer.close()
    connection.close()
    begin_s = time.monotonic()
    while metric(address, "vllm:num_requests_running") and time.monotonic() - begin_s < 60:
        time.sleep(0.001)
    seen["still_running"] = metric(address, "vllm:num_requests_running")
    seen["generated_after_abort"] = metric(address, "vllm:generation_tokens_total") - seen["generated"]
    seen["kv_after_abort"] = metric(address, "vllm:kv_cache_usage_perc")

    seen["sleep"] = call(address, "POST", "/sleep?level=1")[0]
    seen["is_sleeping"] = json.loads(call(address, "GET", "/is_sleeping")[1])
    seen["wake_up"] = call(address, "POST", "/wake_up")[0]
    seen["awake"] = json.loads(call(address, "GET", "/is_sleeping")[1])
    seen["completion_after_sleep"] = call(address, "POST", "/v1/completions", completion(model, TOKENS))[0]
    print("SEEN " + json.dumps(seen), flush=True)


if __name__ == "__main__":
    main()
