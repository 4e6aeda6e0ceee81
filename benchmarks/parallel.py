"""Large models over many virtual GPUs on this machine: do they serve, and in how much memory?

`python -m benchmarks.parallel [SETUP...]` serves 200 requests with each setup by `revati bench vllm` and
prints the largest memory of all processes of the run together. Memory is PSS: pages that several share count
once. Every rank has its process; `--fold-ranks` gives one process to all tensor-parallel ranks.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

_LLAMA, _QWEN = "meta-llama/Llama-3.1-70B-Instruct", "Qwen/Qwen3-235B-A22B"
_PERIOD_S = 1.0


@dataclass(frozen=True)
class Setup:
    """One model, one GPU, one way to spread it."""

    gpu: str
    model: str
    gpus: int
    flags: tuple[str, ...] = ()


SETUPS = {
    "70b-tp1": Setup("h200_sxm", _LLAMA, 1, ("--gpu-memory-utilization", "0.98")),  # 141 GB of weights
    "70b-tp2": Setup("h100_sxm", _LLAMA, 2),
    "70b-tp4": Setup("h100_sxm", _LLAMA, 4),
    "70b-tp8": Setup("h100_sxm", _LLAMA, 8),
    "235b-ep8": Setup("h100_sxm", _QWEN, 8, ("--enable-expert-parallel",)),
}


@dataclass(frozen=True)
class Served:
    """What came of one run. Peaks in bytes; `largest` is that of the largest single process."""

    name: str
    completed: int
    processes: int
    peak_bytes: int
    largest_bytes: int
    wall_s: float
    ttft_ms: float
    tpot_ms: float


def _children(pid: int) -> list[int]:
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found += [int(child) for child in task.read_text().split()]
        except OSError:
            continue
    return found + [grandchild for child in found for grandchild in _children(child)]


def _pss_bytes(pid: int) -> int:
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0  # ended meanwhile
    return 1024 * next((int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:")), 0)


class Memory:
    """Samples the tree below a process once a second."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.peak_bytes = self.largest_bytes = self.processes = 0
        self._thread.start()

    def stop(self) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(_PERIOD_S):
            sizes = [_pss_bytes(pid) for pid in [self._pid, *_children(self._pid)]]
            self.peak_bytes = max(self.peak_bytes, sum(sizes))
            self.largest_bytes = max(self.largest_bytes, *sizes)
            self.processes = max(self.processes, len(sizes))


def serve(name: str, setup: Setup, arguments: argparse.Namespace) -> Served:
    """Run one setup; raises RuntimeError with the run's last lines if it fails."""
    words = [sys.executable, "-m", "revati.cli.main", "bench", "vllm", "--gpu", setup.gpu]
    words += ["--model", setup.model, "--tensor-parallel-size", str(setup.gpus), "--max-model-len", "4096"]
    words += setup.flags
    words += ["--fold-ranks"] if arguments.fold_ranks else []
    words += ["--dataset-name", "random", "--random-input-len", "256"]
    words += ["--random-output-len", str(arguments.output_tokens), "--num-prompts", str(arguments.requests)]
    words += ["--ignore-eos", "--temperature", "0"]
    with tempfile.TemporaryDirectory() as folder:
        result, log = Path(folder) / "result.json", Path(folder) / "log.txt"
        with log.open("wb") as output:
            process = subprocess.Popen([*words, "--result", str(result)], stdout=output, stderr=output)
            memory = Memory(process.pid)
            code = process.wait()
            memory.stop()
        if code != 0:
            raise RuntimeError(f"{name}: ended with code {code}:\n{log.read_text()[-2000:]}")
        found = json.loads(result.read_text())
    return Served(
        name, found["completed"], memory.processes, memory.peak_bytes, memory.largest_bytes,
        found["revati"]["wall"]["wall_time_s"], found["mean_ttft_ms"], found["mean_tpot_ms"],
    )  # fmt: skip


def table_of(rows: Sequence[Served]) -> Table:
    """One line a setup."""
    table = Table(box=box.SIMPLE_HEAD)
    sizes = ("processes", "peak, GiB", "largest process, GiB")
    for header in ("setup", "requests", *sizes, "wall s", "TTFT ms", "TPOT ms"):
        table.add_column(header, justify="left" if header == "setup" else "right")
    for row in rows:
        table.add_row(
            row.name, str(row.completed), str(row.processes),
            f"{row.peak_bytes / 2**30:.2f}", f"{row.largest_bytes / 2**30:.2f}",
            f"{row.wall_s:.0f}", f"{row.ttft_ms:.1f}", f"{row.tpot_ms:.2f}",
        )  # fmt: skip
    return table


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.parallel", description=__doc__)
    parser.add_argument("setups", nargs="*", help=f"default: all of {', '.join(SETUPS)}")
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--output-tokens", type=int, default=32)
    parser.add_argument("--fold-ranks", action="store_true")
    arguments = parser.parse_args(argv)
    unknown = [name for name in arguments.setups if name not in SETUPS]
    if unknown:
        parser.error(f"unknown setup {unknown[0]!r}; known: {', '.join(SETUPS)}")
    rows: list[Served] = []
    failed = 0
    console = Console(highlight=False, width=120)
    for name in arguments.setups or SETUPS:
        try:
            rows.append(serve(name, SETUPS[name], arguments))
        except RuntimeError as error:
            failed += 1
            print(error, file=sys.stderr)
            continue
        console.print(table_of(rows))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
