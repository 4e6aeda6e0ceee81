"""Does a busy machine change what an emulation says? One serving run, alone and beside CPU hogs.

`python -m benchmarks.contention [--cpu-time free,charged] [--hogs 3] [--hog-mib 64] [--repeats N]
[-- ARGUMENTS...]`: real vLLM through `revati bench vllm`, whose further arguments may be given. Expected:
identical metrics in `free`; medians over `repeats` within `--limit` in `charged`. Exit code 1 where that does
not hold. Alone means an otherwise idle machine: the load average before each run is printed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

LOAD = (
    *("--gpu", "h100_sxm", "--model", "meta-llama/Llama-3.1-8B-Instruct", "--dataset-name", "random"),
    *("--random-input-len", "512", "--random-output-len", "64", "--num-prompts", "60", "--request-rate", "6"),
    *("--ignore-eos", "--temperature", "0", "--percentile-metrics", "ttft,tpot,itl,e2el"),
)
METRICS = (
    *("mean_ttft_ms", "mean_tpot_ms", "mean_itl_ms", "mean_e2el_ms"),
    *("p99_ttft_ms", "p99_tpot_ms", "p99_e2el_ms", "output_throughput"),
)
LIMITED = ("mean_ttft_ms", "mean_tpot_ms", "mean_e2el_ms", "output_throughput")


@contextlib.contextmanager
def cpu_hogs(count: int, memory_mib: int) -> Iterator[None]:
    """Processes that compute without end, or write so much memory over and over."""
    writes = f"import numpy\nhoard = numpy.ones({memory_mib} << 17)\nwhile True: hoard += 1"
    program = writes if memory_mib else "while True: pass"
    running = [subprocess.Popen([sys.executable, "-c", program]) for _ in range(count)]
    try:
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


def serve(cpu_time: str, hogs: int, load: Sequence[str], hog_mib: int = 0) -> dict[str, Any]:
    """The metrics of one run of `revati bench vllm`, and `wall_s`, its whole wall time."""
    with tempfile.TemporaryDirectory() as folder, cpu_hogs(hogs, hog_mib):
        result = Path(folder) / "result.json"
        command = [sys.executable, "-m", "revati.cli.main", "bench", "vllm", "--cpu-time", cpu_time]
        load_average = os.getloadavg()[0]
        done = subprocess.run([*command, "--result", str(result), *load], capture_output=True, text=True)
        if done.returncode != 0:
            raise SystemExit(f"revati bench vllm ended with code {done.returncode}:\n{done.stderr[-2000:]}")
        found = json.loads(result.read_text())
    metrics: dict[str, Any] = {name: found[name] for name in METRICS}
    return {**metrics, "wall_s": found["revati"]["wall"]["serving_wall_s"], "load": load_average}


def compare(cpu_time: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Both sides in turn, `repeats` times (`free`: once)."""
    repeats = 1 if cpu_time == "free" else arguments.repeats
    sides: dict[str, list[dict[str, Any]]] = {"alone": [], "beside": []}
    for _ in range(repeats):
        for side, hogs in (("alone", 0), ("beside", arguments.hogs)):
            run = serve(cpu_time, hogs, arguments.load, arguments.hog_mib)
            print(f"{cpu_time}, {side}: {json.dumps(run)}", flush=True)
            sides[side].append(run)
    row: dict[str, Any] = {
        "cpu_time": cpu_time,
        "hogs": arguments.hogs,
        "hog_mib": arguments.hog_mib,
        "runs": sides,
    }
    for name in (*METRICS, "wall_s"):
        row[name] = {side: median(run[name] for run in runs) for side, runs in sides.items()}
    row["identical"] = all(row[name]["alone"] == row[name]["beside"] for name in METRICS)
    row["worst"] = max(abs(row[name]["beside"] / row[name]["alone"] - 1) for name in LIMITED)
    row["passed"] = row["identical"] if cpu_time == "free" else row["worst"] <= arguments.limit
    return row


def table_of(rows: Sequence[dict[str, Any]]) -> Table:
    """One line a metric."""
    table = Table(box=box.SIMPLE_HEAD)
    for header in ("--cpu-time", "metric", "alone", "beside hogs", "ratio"):
        table.add_column(header, justify="left" if header in ("--cpu-time", "metric") else "right")
    for row in rows:
        for name in (*METRICS, "wall_s"):
            alone, beside = row[name]["alone"], row[name]["beside"]
            table.add_row(row["cpu_time"], name, f"{alone:.4f}", f"{beside:.4f}", f"{beside / alone:.4f}")
    return table


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    given = list(sys.argv[1:] if argv is None else argv)
    at = given.index("--") if "--" in given else len(given)
    parser = argparse.ArgumentParser(prog="python -m benchmarks.contention", description=__doc__)
    parser.add_argument("--cpu-time", default="free,charged")
    parser.add_argument("--hogs", type=int, default=3)
    parser.add_argument("--hog-mib", type=int, default=0, help="memory that each hog writes over and over")
    parser.add_argument("--repeats", type=int, default=6, help="charged: runs of each side")
    parser.add_argument("--limit", type=float, default=0.02, help="charged: largest relative difference")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args(given[:at])
    if arguments.hog_mib < 0:
        parser.error(f"--hog-mib must be 0 or more, got {arguments.hog_mib}")
    arguments.load = [*LOAD, *given[at + 1 :]]
    rows = [compare(cpu_time, arguments) for cpu_time in arguments.cpu_time.split(",")]
    Console(highlight=False).print(table_of(rows))
    for row in rows:
        says = "identical" if row["identical"] else f"means differ by {row['worst']:.2%} at most"
        print(f"{row['cpu_time']}: {says}; {'passed' if row['passed'] else 'FAILED'}")
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n")
    return 0 if all(row["passed"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
