"""Reads what a vLLM server said about itself: its log and its Prometheus metrics at the end of a run."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

_STATS = re.compile(
    r"(?P<clock>\d\d:\d\d:\d\d) \[loggers\.py:\d+\] (?:Engine (?P<engine>\d+): )?"
    r"Avg prompt throughput: (?P<prompt>[\d.]+) tokens/s, "
    r"Avg generation throughput: (?P<output>[\d.]+) tokens/s, "
    r"Running: (?P<running>\d+) reqs, Waiting: (?P<waiting>\d+) reqs.*?KV cache usage: (?P<kv>[\d.]+)%"
)
_EXCEPTION = re.compile(
    r"^(?:\((?P<who>[^)]*)\) )?(?:(?:ERROR|CRITICAL) [\d-]+ [\d:]+ \[[^\]]*\] )?"
    r"(?P<text>(?:[A-Za-z_]\w*\.)*[A-Z]\w*(?:Error|Exception)(?:: .*)?)$",
    re.MULTILINE,
)
_CONFIG = re.compile(r"Initializing a V1 LLM engine .*? with config: (?P<config>.*)")
_KV_TOKENS = re.compile(r"KV cache size: (?P<tokens>[\d,]+) tokens")
_SAMPLE = re.compile(r"(?P<name>[A-Za-z_:][\w:]*)(?:\{(?P<labels>.*)\})? (?P<value>[^ ]+)")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')

# Sum and count per request of each part, as vLLM's own scheduler measured them.
_PARTS = {
    "queue": "vllm:request_queue_time_seconds",
    "prefill": "vllm:request_prefill_time_seconds",
    "decode": "vllm:request_decode_time_seconds",
    "time_to_first_token": "vllm:time_to_first_token_seconds",
    "e2e": "vllm:e2e_request_latency_seconds",
}


@dataclass(frozen=True)
class EngineSample:
    """One line of vLLM's periodic statistics; `second` counts from the first such line."""

    second: int
    engine: int
    prompt_tokens_per_s: float
    output_tokens_per_s: float
    running: int
    waiting: int
    kv_usage_percent: float


def root_cause(log: str) -> str | None:
    """The exception that ended the engine: of the engine core or a worker if they said one, else the last."""
    causes = [(match["who"] or "", match["text"].strip()) for match in _EXCEPTION.finditer(log)]
    inner = [text for who, text in causes if who.startswith(("EngineCore", "Worker"))]
    if inner:
        return inner[-1]
    return causes[-1][1] if causes else None


def read_samples(log: str) -> list[EngineSample]:
    """All periodic statistics in a server log, in order."""
    samples: list[EngineSample] = []
    first: int | None = None
    for match in _STATS.finditer(log):
        hours, minutes, seconds = (int(part) for part in match["clock"].split(":"))
        second = hours * 3600 + minutes * 60 + seconds
        first = second if first is None else first
        samples.append(
            EngineSample(
                second=(second - first) % 86400,
                engine=int(match["engine"] or 0),
                prompt_tokens_per_s=float(match["prompt"]),
                output_tokens_per_s=float(match["output"]),
                running=int(match["running"]),
                waiting=int(match["waiting"]),
                kv_usage_percent=float(match["kv"]),
            )
        )
    return samples


def read_engine(log: str, metrics: str) -> dict[str, Any]:
    """What the server resolved: its engine config (as logged), KV capacity and cache settings."""
    found: dict[str, Any] = {}
    if match := _CONFIG.search(log):
        found["config"] = match["config"].strip()
    if match := _KV_TOKENS.search(log):
        found["kv_cache_tokens"] = int(match["tokens"].replace(",", ""))
    for name, labels, _ in parse_metrics(metrics):
        if name == "vllm:cache_config_info":
            found["cache_config"] = labels
            if labels.get("num_gpu_blocks", "").isdigit():
                found["num_gpu_blocks"] = int(labels["num_gpu_blocks"])
    return found


def request_parts_ms(metrics: str) -> dict[str, float]:
    """Mean milliseconds per request of each part of its life, over all engines of the server."""
    sums: dict[str, float] = {}
    for name, _, value in parse_metrics(metrics):
        sums[name] = sums.get(name, 0.0) + value
    return {
        part: sums[f"{name}_sum"] / sums[f"{name}_count"] * 1e3
        for part, name in _PARTS.items()
        if sums.get(f"{name}_count")
    }


def counters(metrics: str) -> dict[str, float]:
    """Totals that show what happened, also when the client was stopped in the middle."""
    wanted = {
        "vllm:prompt_tokens_total": "prompt_tokens",
        "vllm:generation_tokens_total": "generation_tokens",
        "vllm:num_preemptions_total": "preemptions",
        "vllm:request_success_total": "finished_requests",
        "vllm:prefix_cache_hits_total": "prefix_cache_hit_tokens",
        "vllm:prefix_cache_queries_total": "prefix_cache_query_tokens",
    }
    totals: dict[str, float] = {}
    for name, _, value in parse_metrics(metrics):
        if name in wanted:
            totals[wanted[name]] = totals.get(wanted[name], 0.0) + value
    return totals


def finish_reasons(metrics: str) -> dict[str, int]:
    """How many requests ended for which reason (vLLM's words: stop, length, abort, ...); none of zero."""
    reasons: dict[str, int] = {}
    for name, labels, value in parse_metrics(metrics):
        if name == "vllm:request_success_total" and value:
            reason = labels.get("finished_reason", "unknown")
            reasons[reason] = reasons.get(reason, 0) + int(value)
    return dict(sorted(reasons.items()))


def parse_metrics(text: str) -> list[tuple[str, dict[str, str], float]]:
    """Samples of a Prometheus text page as (name, labels, value)."""
    samples: list[tuple[str, dict[str, str], float]] = []
    for line in text.splitlines():
        if line.startswith("#") or not (match := _SAMPLE.fullmatch(line.strip())):
            continue
        try:
            value = float(match["value"])
        except ValueError:
            continue
        samples.append((match["name"], dict(_LABEL.findall(match["labels"] or "")), value))
    return samples
