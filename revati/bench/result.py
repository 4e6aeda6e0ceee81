"""Puts a benchmark's result together: vLLM's own JSON plus one `revati` block.

Everything that differs between two identical runs in `free` mode (wall time, clock statistics) lies under
`revati.wall`; the rest is byte-identical.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from revati.bench import notes
from revati.bench.client import TIMES
from revati.bench.engine_log import (
    EngineSample,
    counters,
    finish_reasons,
    read_engine,
    read_samples,
    request_parts_ms,
    root_cause,
)
from revati.bench.plan import CLIENT_LOG, CLIENT_RESULT, METRICS, SERVER_LOG, STATUS, BenchPlan
from revati.cli.world import WorldResult
from revati.report.ops import load_json
from revati.report.summary import run_block

# What differs between two equal runs in `free` mode, all in the `revati` block.
WALL_FIELDS = ("wall",)
# What `vllm bench serve` writes only with --save-detailed.
DETAIL_FIELDS = ("input_lens", "output_lens", "start_times", "ttfts", "itls", "generated_texts", "errors")


@dataclass(frozen=True)
class BenchResult:
    """A finished (or interrupted) benchmark."""

    client: dict[str, Any]  # vLLM's own result, with per-request detail; empty if the client did not finish
    block: dict[str, Any]  # the `revati` block
    samples: list[EngineSample]
    stage: str
    error: str | None  # in one line
    explained: bool = False  # the error names its cause

    @property
    def requests_finished(self) -> int:
        """How many requests the client has figures of."""
        return int(self.client.get("completed", 0))

    def to_json(self, *, detailed: bool) -> str:
        """The result file's content."""
        client = {key: value for key, value in self.client.items() if detailed or key not in DETAIL_FIELDS}
        return json.dumps({**client, "revati": self.block}, indent=1) + "\n"


def without_wall_clock(text: str) -> str:
    """A result file's content but for `WALL_FIELDS`: byte-identical for equal runs in `free` mode."""
    written = json.loads(text)
    for name in WALL_FIELDS:
        written["revati"].pop(name, None)
    return json.dumps(written, indent=1) + "\n"


def collect(plan: BenchPlan, world: WorldResult) -> BenchResult:
    """Read everything the run left in its directory."""
    status = load_json(plan.run_dir / STATUS)
    log, metrics = _text(plan.run_dir / SERVER_LOG), _text(plan.run_dir / METRICS)
    log = log.replace(str(plan.run_dir), "$RUN_DIR")
    client = load_json(plan.run_dir / CLIENT_RESULT)
    times = load_json(plan.run_dir / TIMES)
    block = run_block(world)
    block["engine"] = {"name": "vllm", **read_engine(log, metrics)}
    block["engine_counters"] = counters(metrics)
    block["finish_reasons"] = finish_reasons(metrics)
    block["mean_request_parts_ms"] = request_parts_ms(metrics)
    block["stage"] = status.get("stage", "unknown")
    block["virtual"] = {key: status.get(key) for key in ("ready_s", "client_start_s", "client_end_s")}
    block["server_arguments"] = _public_arguments(plan.server_command, plan)
    block["client_arguments"] = _public_arguments(plan.client_command, plan)
    block["wall"].update(
        serving_wall_s=times.get("load_wall_s"),
        start_up_wall_s=status.get("ready_wall_s"),
        serving_speed_up=_serving_speed_up(times),
    )
    block["notes"] = notes.of_run(world.options, client, [op["name"] for op in block["top_ops"]])
    error = world.refusal or status.get("error")
    words = log if status.get("stage") == "server failed" else _text(plan.run_dir / CLIENT_LOG)
    cause = world.refusal or (root_cause(words) if error else None)
    if error and cause and cause != error:
        error = f"{error}: {cause}"
    return BenchResult(client, block, read_samples(log), str(block["stage"]), error, explained=bool(cause))


def _serving_speed_up(times: dict[str, Any]) -> float | None:
    """Virtual over wall time of the load (start-up excluded on both sides)."""
    virtual_s, wall_s = times.get("load_s"), times.get("load_wall_s")
    return float(virtual_s) / float(wall_s) if virtual_s and wall_s else None


def _public_arguments(command: list[str], plan: BenchPlan) -> list[str]:
    """Arguments without what differs between equal runs: interpreter, port, run directory."""
    port = plan.base_url.rpartition(":")[2]
    words = command[3:]  # past `python -m vllm...`
    return ["$RUN_DIR" if word == str(plan.run_dir) else "$PORT" if word == port else word for word in words]


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
