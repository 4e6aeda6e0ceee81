"""Latency statistics of a run, and their errors against measured ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy

from benchmarks.accuracy.case import LATENCIES, STATISTICS, Measured

_VLLM_PREFIX = {"mean": "mean", "p50": "median", "p95": "p95", "p99": "p99"}


def statistics(values_ms: Sequence[float]) -> dict[str, float]:
    """Mean, median, 95th and 99th percentile."""
    if not len(values_ms):
        return {}
    data = numpy.asarray(values_ms, dtype=float)
    return {
        "mean": float(data.mean()),
        "p50": float(numpy.percentile(data, 50)),
        "p95": float(numpy.percentile(data, 95)),
        "p99": float(numpy.percentile(data, 99)),
    }


def from_bench(client: dict[str, Any]) -> dict[str, Any]:
    """Statistics from the result of `vllm bench serve`."""
    found: dict[str, Any] = {}
    for latency in LATENCIES:
        name = latency.removesuffix("_ms")
        values = {stat: client.get(f"{_VLLM_PREFIX[stat]}_{name}_ms") for stat in STATISTICS}
        found[latency] = {stat: value for stat, value in values.items() if value is not None}
    found["duration_s"] = client.get("duration")
    found["output_tokens_per_s"] = client.get("output_throughput")
    return found


def from_requests(requests: Sequence[dict[str, float]]) -> dict[str, Any]:
    """Statistics from engine-side times of each request (`inprocess.request_times`)."""
    ttft = [(r["first_token_s"] - r["queued_s"]) * 1e3 for r in requests]
    e2el = [(r["last_token_s"] - r["queued_s"]) * 1e3 for r in requests]
    tpot = [
        (r["last_token_s"] - r["first_token_s"]) * 1e3 / (r["output_tokens"] - 1)
        for r in requests
        if r["output_tokens"] > 1
    ]
    duration_s = max(r["last_token_s"] for r in requests) - min(r["queued_s"] for r in requests)
    return {
        "ttft_ms": statistics(ttft),
        "tpot_ms": statistics(tpot),
        "itl_ms": {},
        "e2el_ms": statistics(e2el),
        "duration_s": duration_s,
        "output_tokens_per_s": sum(r["output_tokens"] for r in requests) / duration_s,
    }


def medians(repeats: Sequence[dict[str, float]]) -> dict[str, float]:
    """The median of each metric over repeats of one measurement."""
    return {name: float(numpy.median([each[name] for each in repeats])) for name in repeats[0]}


def flatten(values: dict[str, Any] | Measured) -> dict[str, float]:
    """`{"ttft_ms.mean": ..., "duration_s": ...}` without what is missing."""
    raw = values.model_dump() if isinstance(values, Measured) else values
    flat: dict[str, float] = {}
    for latency in LATENCIES:
        for stat in STATISTICS:
            value = (raw.get(latency) or {}).get(stat)
            if value is not None:
                flat[f"{latency}.{stat}"] = float(value)
    for name in ("duration_s", "output_tokens_per_s"):
        if raw.get(name) is not None:
            flat[name] = float(raw[name])
    return flat


def errors_percent(measured: dict[str, float], predicted: dict[str, float]) -> dict[str, float]:
    """Signed error of each metric that both sides have: positive means predicted too large."""
    return {
        name: (predicted[name] / measured[name] - 1.0) * 100.0
        for name in measured
        if name in predicted and measured[name] != 0
    }
