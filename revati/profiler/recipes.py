"""Where the shipped profiles come from: the measurement files of each, and which other cards' rows are
pooled in.

A measurement file is `<gpu>.<source>.parquet` in the measurements folder ($REVATI_MEASUREMENTS, else
~/.cache/revati/measurements); `revati profile import` and `collect` write there.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

MEASUREMENTS_ENV = "REVATI_MEASUREMENTS"
_RTX = ("rtx4090.llmservingsim", "rtx_pro_6000.llmservingsim")


@dataclass(frozen=True)
class Recipe:
    """files: of the card itself. pool: of others. pool_shapes: train GEMM and attention on both."""

    files: tuple[str, ...]
    pool: tuple[str, ...] = ()
    pool_shapes: bool = False


RECIPES: dict[str, Recipe] = {
    "a100_sxm": Recipe(("a100_sxm.aiconfigurator",), _RTX),
    "b200_sxm": Recipe(("b200_sxm.aiconfigurator",), _RTX),
    "h100_sxm": Recipe(("h100_sxm.aiconfigurator",), _RTX),
    "h200_sxm": Recipe(("h200_sxm.aiconfigurator",), _RTX),
    "l40s": Recipe(("l40s.aiconfigurator",), _RTX),
    "rtx4090": Recipe(
        ("rtx4090.llmservingsim",), ("l40s.aiconfigurator", "rtx_pro_6000.llmservingsim"), pool_shapes=True
    ),
    "rtx_pro_6000": Recipe(("rtx_pro_6000.llmservingsim", "rtx_pro_6000.aiconfigurator")),
}


def measurements_dir() -> Path:
    """Folder of the measurement files."""
    override = os.environ.get(MEASUREMENTS_ENV)
    return Path(override) if override else Path.home() / ".cache" / "revati" / "measurements"


def measurement_path(name: str) -> Path:
    """Path of the measurement file `name` ("h100_sxm.aiconfigurator")."""
    return measurements_dir() / f"{name}.parquet"


def recipe_of(gpu: str) -> Recipe:
    """The recipe of `gpu`: the shipped one, else every `<gpu>.*.parquet` in the measurements folder."""
    if gpu in RECIPES:
        collected = f"{gpu}.collect"
        if measurement_path(collected).is_file():
            recipe = RECIPES[gpu]
            return Recipe((collected, *recipe.files), recipe.pool, recipe.pool_shapes)
        return RECIPES[gpu]
    found = sorted(p.name.removesuffix(".parquet") for p in measurements_dir().glob(f"{gpu}.*.parquet"))
    return Recipe(tuple(found), tuple(n for n in _RTX if measurement_path(n).is_file()))
