"""How far off is one card's model of experts on another card, by the ratio of its time to its roofline?

    python -m benchmarks.stand_ins

Every card with a table of experts is priced by every other (`revati.latency.store.StandIn`) and by its
roofline; the card's own model stands for the measurement. Prints mean absolute errors over token counts and
shapes of layers.
"""

from __future__ import annotations

import itertools
from statistics import fmean

from rich import box
from rich.console import Console
from rich.table import Table

from revati.latency.ops.moe import moe_work
from revati.latency.roofline import roofline_estimate_ns
from revati.latency.store import StandIn, load_profile
from revati.latency.work import MoeShape
from revati.spec import list_gpus

TOKENS = (8, 64, 512, 2048, 8192)
LAYERS = (  # top k, experts, and (n, k) of both products
    (8, 128, (384, 4096), (4096, 192)),  # Qwen3-235B-A22B, TP 8
    (8, 128, (1536, 2048), (2048, 768)),  # Qwen3-30B-A3B
    (2, 8, (7168, 4096), (4096, 3584)),  # Mixtral-8x7B, TP 4
)


def main() -> None:
    """Entry point."""
    cards = [gpu for gpu in list_gpus() if "moe" not in load_profile(gpu).families_missing()]
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("card")
    for header in ("roofline, %", *(f"by {gpu}, %" for gpu in cards)):
        table.add_column(header, justify="right")
    for gpu in cards:
        own = load_profile(gpu)
        errors: dict[str, list[float]] = {name: [] for name in ("roofline", *cards)}
        for tokens, (topk, experts, up, down) in itertools.product(TOKENS, LAYERS):
            for stage, (n, k) in (("up", up), ("down", down)):
                work = moe_work(MoeShape(tokens, topk, experts, n, k, "bf16", stage))
                truth = own.estimate(work)
                assert truth is not None
                errors["roofline"].append(abs(roofline_estimate_ns(work, own.spec) / truth[0] - 1))
                for other in cards:
                    found = StandIn(own.spec, load_profile(other)).estimate(work)
                    assert found is not None
                    errors[other].append(abs(found[0] / truth[0] - 1))
        table.add_row(gpu, *(f"{fmean(values) * 100:.0f}" for values in errors.values()))
    Console(highlight=False, width=200).print(table)


if __name__ == "__main__":
    main()
