"""How many rows of AIConfigurator's GEMM tables are contradicted by their neighbours, engine by engine.

    python -m benchmarks.table_noise aiconfigurator_core-0.12.0-*.whl [--gpu ID ...]

Prints for each card, engine and kind: the rows that are judged (few rows, memory bound), the share of those
6% or more off their neighbours' median, how much slower the slow ones are (median), and the share that the
fit leaves out (`revati/profiler/outliers.py`).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from revati.latency.families import gemm
from revati.profiler import outliers, training
from revati.profiler.importers import aiconfigurator
from revati.profiler.measure import MeasurementError
from revati.spec import load_spec

ENGINES = ("vllm", "sglang", "trtllm")
KINDS = ("bf16", "fp8")


def lines(root: Path, gpu: str) -> list[list[str]]:
    """Rows of the printed table for one card."""
    spec = load_spec(gpu)
    found = []
    for engine in ENGINES:
        try:
            rows = aiconfigurator.load(root, gpu, engine)
        except MeasurementError:
            continue
        for kind in KINDS:
            table = rows[(rows["family"] == "gemm") & (rows["kind"] == kind)]
            if table.empty:
                continue
            version = str(table["engine_version"].iloc[0])
            mean = training.mean_latency(table, ["m", "n", "k"])
            sizes = [mean[name].to_numpy(dtype=float) for name in ("m", "n", "k")]
            bound = gemm.memory_bound(*sizes, kind, spec)
            off, judged = outliers.deviation(mean, bound)
            far = judged & (np.abs(off) > outliers.FAR)
            slow = judged & (off > outliers.FAR)
            left_out = outliers.contradicted(mean, bound)
            found.append(
                [gpu, f"{engine} {version}", kind, str(judged.sum()), f"{far.sum() / judged.sum():.1%}",
                 f"{np.median(off[slow]):+.1%}" if slow.any() else "", f"{left_out.sum() / judged.sum():.1%}"]
            )  # fmt: skip
    return found


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.table_noise", description=__doc__)
    parser.add_argument("wheel", type=Path, help="aiconfigurator-core, the wheel or unpacked")
    parser.add_argument("--gpu", nargs="+", default=["h100_sxm", "h200_sxm"], choices=aiconfigurator.GPUS)
    arguments = parser.parse_args()
    table = Table("card", "table", "kind", "judged", "6% off", "slow ones", "left out")
    try:
        root = aiconfigurator.data_root(arguments.wheel)
    except (MeasurementError, OSError) as error:
        print(f"table_noise: {error}", file=sys.stderr)
        return 2
    for gpu in arguments.gpu:
        for line in lines(root, gpu):
            table.add_row(*line)
    Console().print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
