"""Attention calls that decode and prefill at once under FlashAttention 2, on cards where they were measured.

    python -m benchmarks.mixed_attention [--data DIR]

Each measured mixed call of a card is priced without the card's model of such calls, in two ways: as the sum
of its parts, and with decode sequences in tiles of 64 rows (`AttentionEstimator`; how cards without such
measurements are priced). Prints the mean absolute error and the median ratio of prediction to measurement.
`DIR` holds the tables of LLMServingSim (`RTX4090/`, `RTXPRO6000/`); without it the shipped model of mixed
calls, within 2% of them at points it has not seen (docs/latency.md), stands for the measurement on a grid.
"""

from __future__ import annotations

import argparse
import csv
import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from revati.latency import families
from revati.latency.families.attention import AttentionEstimator
from revati.latency.store import load_profile
from revati.latency.work import AttentionShape, Work

CARDS = {
    "rtx4090": ("RTX4090/meta-llama/Llama-3.1-8B/bf16/tp1", 32, 8),
    "rtx_pro_6000": ("RTXPRO6000/Qwen/Qwen3-32B/bf16/tp1", 64, 8),
}
Call = tuple[int, int, int, int, float | None]  # new tokens, their context, decodes, their keys, measured ns


def measured_calls(path: Path) -> Iterator[Call]:
    """Mixed rows of a table of LLMServingSim."""
    with path.open() as file:
        for row in csv.DictReader(file):
            sizes = [int(float(row[k])) for k in ("prefill_chunk", "kv_prefill", "n_decode", "kv_decode")]
            if sizes[0] > 0 and sizes[2] > 0:
                yield (*sizes, float(row["time_us"]) * 1e3)  # type: ignore[misc]


def grid_calls() -> Iterator[Call]:
    """A grid like the tables'."""
    for chunk, context, count, keys in itertools.product(
        (128, 512, 2048), (0, 2048), (1, 4, 16, 64, 128), (128, 512, 2048, 8192)
    ):
        yield chunk, context, count, keys, None


def errors(gpu: str, calls: list[Call], heads: int, kv_heads: int) -> dict[str, np.ndarray]:
    """Ratios of prediction to measurement by way of pricing."""
    whole, apart, tiles = (families.load("attention", load_profile(gpu)) for _ in range(3))
    assert isinstance(whole, AttentionEstimator) and isinstance(apart, AttentionEstimator)
    assert isinstance(tiles, AttentionEstimator)
    del apart.boosters["mixed"], tiles.boosters["mixed"]
    apart.unpacked = False
    tiles.unpacked = True
    found: dict[str, list[float]] = {"sum of the parts": [], "tiles of 64 rows": []}
    for chunk, context, count, keys, measured in calls:
        seqs = ((chunk, context + chunk), *((1, keys) for _ in range(count)))
        work = Work(family="attention", shape=AttentionShape(seqs, heads, kv_heads, 128, 128))
        truth = measured if measured is not None else whole.estimate(work)[0]  # type: ignore[index]
        for name, estimator in (("sum of the parts", apart), ("tiles of 64 rows", tiles)):
            found[name].append(estimator.estimate(work)[0] / truth)  # type: ignore[index]
    return {name: np.array(ratios) for name, ratios in found.items()}


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.mixed_attention", description=__doc__)
    parser.add_argument("--data", type=Path)
    arguments = parser.parse_args()
    if arguments.data is not None and not (arguments.data / "RTX4090").is_dir():
        parser.error(f"--data {arguments.data}: expected LLMServingSim's tables, RTX4090/ and RTXPRO6000/")
    table = Table(box=box.SIMPLE_HEAD)
    for header in ("card", "calls", "priced as", "error %", "median ratio"):
        table.add_column(header, justify="left" if header in ("card", "priced as") else "right")
    for gpu, (folder, heads, kv_heads) in CARDS.items():
        table_file = None if arguments.data is None else arguments.data / folder / "attention.csv"
        calls = list(grid_calls() if table_file is None else measured_calls(table_file))
        for name, ratios in errors(gpu, calls, heads, kv_heads).items():
            error = float(np.mean(np.abs(ratios - 1)) * 100)
            table.add_row(gpu, str(len(calls)), name, f"{error:.1f}", f"{float(np.median(ratios)):.2f}")
    Console(highlight=False).print(table)


if __name__ == "__main__":
    main()
