"""Does charged virtual time agree with real time? The same engine and load with and without the clock.

`python -m benchmarks.charged [--engine async|offline|served|both] [--step-ms 5,20] [--repeats N]`. vLLM
is real; its worker is busy for a known time a step (`benchmarks/step_worker.py`), so a real-time run
needs no GPU either. The charged side has this machine's own host costs: factor 1, and what wake-ups,
ends of timers and cold caches cost here, measured first. Both sides run in turn, `repeats` times; each
metric is the median over rounds. Exit code 1 where TPOT or E2E differ by more than `--limit`. Real-time
runs mean something only on an idle machine: the load average is printed. `served` is vLLM's server and
its own client, three busy processes: in real time more than one request under way (`--concurrency`)
needs a processor for each of them, which virtual time takes for granted.
"""

from __future__ import annotations

import argparse
import json
import os
import struct
import subprocess
import sys
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from statistics import fmean, median, quantiles
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.environment import with_benchmarks
from revati.cli.environment import RunOptions, build_environment
from revati.cli.world import make_run_dir, remove_run_dir, run_world
from revati.clock.calibrate import timed_work_s
from revati.models.catalogue import find_model
from revati.models.materialise import materialise

_MODEL = "meta-llama/Llama-3.1-8B-Instruct"
METRICS = ("ttft_ms", "ttft_p50_ms", "ttft_p95_ms", "tpot_ms", "itl_p99_ms", "e2e_ms")
LIMITED = ("tpot_ms", "e2e_ms")
_COLD_WINDOW_US = 400  # the timekeeper's --cold-share is that of so much work after a wait


def host_options(idle_s: float = 0.005, times: int = 200) -> list[str]:
    """The timekeeper's options for what waits cost on this machine; medians.

    A byte through a pipe wakes a process whose processor has idled for `idle_s`; a sleep of `idle_s` ends
    late by the slack of timers and by such a wake-up; the calibration's work takes longer after a sleep than
    in a loop.
    """
    wake_us = median(_wake_ups_us(idle_s, times))
    late_us, cold_us, warm_us = [], [], []
    for _ in range(times):
        began = time.monotonic()
        time.sleep(idle_s)
        late_us.append((time.monotonic() - began - idle_s) * 1e6)
        cold_us.append(timed_work_s(1) * 1e6)
        warm_us.append(timed_work_s(1) * 1e6)
    slack_us = max(0.0, median(late_us) - wake_us)
    cold_share = max(0.0, median(cold_us) - median(warm_us)) / _COLD_WINDOW_US
    figures = {"--wake-cost-us": wake_us, "--timer-slack-us": slack_us, "--cold-share": cold_share}
    return [word for name, figure in figures.items() for word in (name, f"{figure:.2f}")]


def _wake_ups_us(idle_s: float, times: int) -> list[float]:
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        for _ in range(times):
            time.sleep(idle_s)
            os.write(writing, struct.pack("q", time.monotonic_ns()))
        os._exit(0)
    took_us = []
    for _ in range(times):
        sent = os.read(reading, 8)
        took_us.append((time.monotonic_ns() - struct.unpack("q", sent)[0]) / 1e3)
    os.waitpid(child, 0)
    os.close(reading)
    os.close(writing)
    return took_us


def run_side(
    command: Sequence[str], run_dir: Path, cpu_time: str | None, clock_options: Sequence[str] = ()
) -> None:
    """Run a benchmark's program in virtual time of this kind, or without the clock (None)."""
    own_machine = 1.0  # that is what the run without the clock shows
    options = RunOptions(
        "h100_sxm", cpu_time=cpu_time or "charged", cpu_factor=own_machine, exit_when_stuck=True
    )
    env = with_benchmarks(os.environ)
    if cpu_time is None:
        code = subprocess.run(command, env=build_environment(options, run_dir, env)).returncode
    else:
        code = run_world(
            command, options, run_dir=run_dir, base_env=env, clock_options=clock_options
        ).exit_code
    if code != 0:
        raise SystemExit(f"{' '.join(command[1:])} ended with code {code}")


def play(
    spec: dict[str, Any], cpu_time: str | None, clock_options: Sequence[str] = ()
) -> list[list[dict[str, Any]]]:
    """One run of `benchmarks.step_load`: in virtual time of this kind, or without the clock (None)."""
    entry = find_model(_MODEL)
    assert entry is not None
    run_dir = make_run_dir()
    try:
        output, file = run_dir / "steps.json", run_dir / "steps-spec.json"
        file.write_text(json.dumps({**spec, "model": str(materialise(entry)), "output": str(output)}))
        command = [sys.executable, "-m", "benchmarks.step_load", str(file)]
        run_side(command, run_dir, cpu_time, clock_options)
        rounds: list[list[dict[str, Any]]] = json.loads(output.read_text())
        return rounds
    finally:
        remove_run_dir(run_dir)


def metrics(requests: list[dict[str, Any]], output_tokens: int) -> dict[str, float]:
    """Means and percentiles over the requests of one round."""
    tokens = [row["token_s"] for row in requests]
    ttft_ms = [(t[0] - row["arrival_s"]) * 1e3 for t, row in zip(tokens, requests, strict=True)]
    itl_ms = [(after - before) * 1e3 for t in tokens for before, after in pairwise(t)]
    return {
        "ttft_ms": fmean(ttft_ms),
        "ttft_p50_ms": median(ttft_ms),
        "ttft_p95_ms": quantiles(ttft_ms, n=20, method="inclusive")[-1],
        "itl_p99_ms": quantiles(itl_ms, n=100, method="inclusive")[-1],
        "tpot_ms": fmean((t[-1] - t[0]) / (output_tokens - 1) for t in tokens) * 1e3,
        "e2e_ms": fmean(row["end_s"] - row["arrival_s"] for row in requests) * 1e3,
    }


def compare(
    engine: str, step_ms: float, overlap: bool, clock_options: Sequence[str], arguments: argparse.Namespace
) -> dict[str, Any]:
    """Medians of both sides and their ratios."""
    spec = {
        "engine": engine,
        "step_ms": step_ms,
        "overlap": overlap,
        "rounds": arguments.rounds,
        "requests": arguments.requests,
        "gap_ms": 1.7 * step_ms,
        "concurrency": arguments.concurrency,
        "prompt_tokens": 64,
        "output_tokens": arguments.output_tokens,
    }
    found: dict[str, list[dict[str, float]]] = {"real": [], "charged": []}
    loads = []
    for _ in range(arguments.repeats):
        for side, cpu_time in (("real", None), ("charged", "charged")):
            loads.append(os.getloadavg()[0])
            found[side] += [
                metrics(rows, arguments.output_tokens) for rows in play(spec, cpu_time, clock_options)
            ]
    row: dict[str, Any] = {"engine": engine, "step_ms": step_ms, "overlap": overlap, "load": max(loads)}
    for name in METRICS:
        real, charged = (median(each[name] for each in found[side]) for side in ("real", "charged"))
        row[name] = {"real": real, "charged": charged, "ratio": charged / real}
    row["rounds"] = found
    return row


def table_of(rows: Sequence[dict[str, Any]]) -> Table:
    """One row a metric."""
    table = Table(box=box.SIMPLE_HEAD)
    for header in ("engine", "step ms", "overlap", "metric", "real", "charged", "charged / real", "load"):
        table.add_column(header, justify="left" if header in ("engine", "overlap", "metric") else "right")
    for row in rows:
        for name in METRICS:
            cell = row[name]
            figures = (f"{cell['real']:.3f}", f"{cell['charged']:.3f}", f"{cell['ratio']:.4f}")
            overlap = "yes" if row["overlap"] else "no"
            table.add_row(row["engine"], f"{row['step_ms']:g}", overlap, name, *figures, f"{row['load']:.2f}")
    return table


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.charged", description=__doc__)
    parser.add_argument("--engine", choices=("async", "offline", "both", "served"), default="both")
    parser.add_argument("--overlap", choices=("yes", "no", "both"), default="both", help="async scheduling")
    parser.add_argument("--step-ms", default="5,20")
    parser.add_argument("--repeats", type=int, default=2, help="runs of each side")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of the load in each run")
    parser.add_argument("--requests", type=int, default=12)
    parser.add_argument("--concurrency", type=int, default=1, help="requests under way at a time, if served")
    parser.add_argument("--output-tokens", type=int, default=60)
    parser.add_argument("--limit", type=float, default=0.03, help="largest deviation of a ratio from 1")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args(argv)
    engines = ("async", "offline") if arguments.engine == "both" else (arguments.engine,)
    overlaps = {"both": (True, False), "yes": (True,), "no": (False,)}[arguments.overlap]
    clock_options = host_options()
    rows = [
        compare(engine, float(step), overlap, clock_options, arguments)
        for engine in engines
        for overlap in overlaps
        for step in arguments.step_ms.split(",")
    ]
    print(f"host costs of this machine: {' '.join(clock_options)}")
    Console(highlight=False).print(table_of(rows))
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n")
    worst = max(abs(row[name]["ratio"] - 1) for row in rows for name in LIMITED)
    print(f"largest deviation of TPOT and E2E: {worst:.2%} (limit {arguments.limit:.0%})")
    return 0 if worst <= arguments.limit else 1


if __name__ == "__main__":
    sys.exit(main())
