"""How fast the emulation runs: virtual over wall time, and wall time over the floor.

`python -m benchmarks.speed [SETUP...] [--concurrency 8,64,256]`. The floor is the same engine with the same
requests and a worker that returns at once, in real time and without a device: what no emulation can go below.
Each engine serves the load three times (`--repeats`), and the medians count.
Ranks of one model replica are folded into one process (`--fold-ranks` of `revati`) and the floor has one
worker, in a process of its own as the engine's executor for several GPUs wants it; `--all-ranks` gives every
rank its process, here and there.

In real time the floor's engine is ahead of who fetches the tokens, and vLLM puts several into one output:
work that a server at a GPU's pace, and its emulation, cannot leave out. So there is a second floor, whose
worker waits until the tokens of the step before the last were fetched (`benchmarks/fetched_tokens.py`).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.environment import with_benchmarks
from benchmarks.fetched_tokens import FETCHED_ENV
from revati.cli.environment import RunOptions, build_environment
from revati.cli.world import make_run_dir, remove_run_dir, run_world
from revati.models.catalogue import find_model
from revati.models.materialise import materialise


@dataclass(frozen=True)
class Setup:
    """One model on one number of GPUs."""

    name: str
    model: str
    gpus: int
    engine_args: dict[str, Any]


SETUPS = (
    Setup("8b-tp1", "meta-llama/Llama-3.1-8B-Instruct", 1, {}),
    Setup("70b-tp4", "meta-llama/Llama-3.1-70B-Instruct", 4, {"tensor_parallel_size": 4}),
    Setup(
        "235b-ep8",
        "Qwen/Qwen3-235B-A22B",
        8,
        {"tensor_parallel_size": 8, "enable_expert_parallel": True},
    ),
)


@dataclass(frozen=True)
class Load:
    """One load, as `benchmarks.speed_load` reports it: seconds of the engine's clock and of the wall."""

    load_s: float
    wall_s: float
    outputs: float  # that the requests got


@dataclass(frozen=True)
class Speed:
    """What one setup gave at one concurrency; the floors are None where they were not run."""

    setup: str
    concurrency: int
    requests: int
    emulated: Load
    floor: Load | None
    fetched_floor: Load | None

    @property
    def speed_up(self) -> float:
        """How much faster than the real GPU the emulation ran."""
        return self.emulated.load_s / self.emulated.wall_s

    @property
    def floor_ratio(self) -> float | None:
        """Wall time over that of the engine alone."""
        return self.emulated.wall_s / self.floor.wall_s if self.floor else None

    @property
    def fetched_floor_ratio(self) -> float | None:
        """Wall time over that of the engine alone, held back to who fetches its tokens."""
        return self.emulated.wall_s / self.fetched_floor.wall_s if self.fetched_floor else None


def engine_args(setup: Setup) -> dict[str, Any]:
    """Arguments of the engine, the same for the emulation and for the floor."""
    entry = find_model(setup.model)
    if entry is None:
        raise SystemExit(f"unknown model {setup.model}")
    return {
        "model": str(materialise(entry)),
        "load_format": "dummy",
        "max_model_len": 4096,
        **setup.engine_args,
    }


def measure(setup: Setup, concurrency: int, arguments: argparse.Namespace) -> Speed:
    """Emulate a setup, then run its floor."""
    requests = concurrency * arguments.rounds
    load = {
        "concurrency": concurrency,
        "requests": requests,
        "prompt_tokens": arguments.prompt_tokens,
        "output_tokens": arguments.output_tokens,
        "repeats": arguments.repeats,
    }
    fold = setup.gpus > 1 and not arguments.all_ranks
    options = RunOptions(arguments.gpu, setup.gpus, cpu_time=arguments.cpu_time, fold_ranks=fold)
    emulated = _run(load, engine_args(setup), options, virtual=True)
    floor = fetched = None
    if not arguments.no_floor:
        floor_args = {**engine_args(setup), "worker_cls": "benchmarks.floor_worker.FloorWorker"}
        if fold:
            one_worker = {"tensor_parallel_size": 1, "enable_expert_parallel": False}
            floor_args |= one_worker | {"distributed_executor_backend": "mp"}  # as tensor parallelism has it
        unfolded = replace(options, fold_ranks=False)
        floor = _run(load, floor_args, unfolded, virtual=False)
        fetched = _run(load, floor_args, unfolded, virtual=False, fetched=True)
    return Speed(setup.name, concurrency, requests, emulated, floor, fetched)


def _run(
    load: dict[str, Any],
    args: dict[str, Any],
    options: RunOptions,
    *,
    virtual: bool,
    fetched: bool = False,
) -> Load:
    run_dir = make_run_dir()
    try:
        output, spec = run_dir / "speed.json", run_dir / "speed-spec.json"
        spec.write_text(json.dumps({**load, "engine_args": args, "output": str(output)}))
        command = [sys.executable, "-m", "benchmarks.speed_load", str(spec)]
        env = with_benchmarks(os.environ)
        if fetched:
            env[FETCHED_ENV] = str(run_dir / "fetched-tokens")
        if virtual:
            code = run_world(command, options, run_dir=run_dir, base_env=env).exit_code
        else:
            code = subprocess.run(
                command, env=build_environment(options, run_dir, env), check=False
            ).returncode
        if code != 0 or not output.is_file():
            raise SystemExit(f"the {'emulation' if virtual else 'floor'} ended with code {code}")
        return Load(**json.loads(output.read_text()))
    finally:
        remove_run_dir(run_dir)


def _record(row: Speed) -> dict[str, Any]:
    ratios = ("speed_up", "floor_ratio", "fetched_floor_ratio")
    return asdict(row) | {name: getattr(row, name) for name in ratios}


def speed_table(rows: Sequence[Speed]) -> Table:
    """One row a measurement."""
    table = Table(box=box.SIMPLE_HEAD)
    headers = ("virtual s", "wall s", "speed-up", "wall / floor", "wall / fetched floor", "outputs")
    for header in ("setup", "concurrency", *headers):
        table.add_column(header, justify="left" if header == "setup" else "right")
    for row in rows:
        outputs = [load.outputs for load in (row.emulated, row.floor, row.fetched_floor) if load]
        table.add_row(
            row.setup,
            str(row.concurrency),
            f"{row.emulated.load_s:.2f}",
            f"{row.emulated.wall_s:.2f}",
            f"{row.speed_up:.2f}x",
            *("" if one is None else f"{one:.2f}" for one in (row.floor_ratio, row.fetched_floor_ratio)),
            ", ".join(f"{one:.0f}" for one in outputs),
        )
    return table


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed", description=__doc__)
    parser.add_argument("setups", nargs="*", help=f"default: all of {', '.join(s.name for s in SETUPS)}")
    parser.add_argument("--concurrency", default="8,64,256")
    parser.add_argument("--rounds", type=int, default=2, help="requests per unit of concurrency")
    parser.add_argument("--repeats", type=int, default=3, help="loads of one engine, whose median counts")
    parser.add_argument("--prompt-tokens", type=int, default=512)
    parser.add_argument("--output-tokens", type=int, default=128)
    parser.add_argument("--gpu", default="h100_sxm")
    parser.add_argument("--cpu-time", default="charged")
    parser.add_argument("--all-ranks", action="store_true", help="a process for each rank")
    parser.add_argument("--no-floor", action="store_true")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args(argv)
    chosen = [setup for setup in SETUPS if not arguments.setups or setup.name in arguments.setups]
    rows: list[Speed] = []
    console = Console(highlight=False)
    for setup in chosen:
        for concurrency in (int(text) for text in arguments.concurrency.split(",")):
            rows.append(measure(setup, concurrency, arguments))
            console.print(speed_table(rows))
            if arguments.json is not None:
                found = [_record(row) for row in rows]
                arguments.json.write_text(json.dumps(found, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
