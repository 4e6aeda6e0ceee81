"""Rows of a GEMM table that the table itself contradicts.

A product of few rows takes as long as its weights take to be read, whatever the number of rows. In vLLM
0.24's tables of AIConfigurator for the H100 and the H200 one such row in six is 6% or more off those beside
it, mostly slower, by 8 to 16%, at random: [m, 3584] @ [3584, 65536] takes 160 us with 5 and 6 rows and 188
with 2 and 4. In TensorRT-LLM's tables of the same cards, which time the same library, it is one in 30
(`python -m benchmarks.table_noise`). A squared error makes trees learn them: the products of a step of
Qwen3-8B took 3% longer with two requests than with one; measured steps have 1% between one and four.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pandas as pd

MOST_ROWS = 128
LEAST_NS = 15_000.0
"""Below this, launch and measurement decide as much as the weights do."""
NEAR_ROWS = 16
"""Rows that are this close, or within a factor of two, are expected to take as long."""
FEWEST_NEAR = 5
FAR = 0.06
"""Twice what rows that agree are apart: of those nearer than this, nearly nine tenths are within 3%."""
KERNELS = 1 / 3
"""Where more weights than this are far off at a number of rows, it is a kernel of that size, and is kept."""
FEWEST_PRODUCTS = 20
"""With fewer products at a number of rows, chance and kernel cannot be told apart."""


def deviation(
    rows: pd.DataFrame, memory_bound: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """(how far each row is off the median of those beside it, which rows are judged); 0 if too few are near.

    rows: columns m, n, k, latency_ns; one a shape. memory_bound: rows whose time is that of the weights.
    """
    off = np.zeros(len(rows))
    latency = rows["latency_ns"].to_numpy(dtype=float)
    count = rows["m"].to_numpy(dtype=float)
    judged = memory_bound & (count <= MOST_ROWS) & (latency > LEAST_NS)
    for positions in _groups(rows[["n", "k"]], judged):
        m, time = count[positions], latency[positions]
        near = (np.abs(m[:, None] - m) <= NEAR_ROWS) | (np.abs(np.log2(m[:, None] / m)) <= 1)
        median = np.nanmedian(np.where(near, time, np.nan), axis=1)
        off[positions] = np.where(near.sum(axis=1) >= FEWEST_NEAR, time / median - 1, 0.0)
    return off, judged


def contradicted(rows: pd.DataFrame, memory_bound: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Mask of the `rows` that are more than 6% off their neighbours' median; arguments as of `deviation`."""
    off, judged = deviation(rows, memory_bound)
    count = rows["m"].to_numpy(dtype=float)
    far = np.abs(off) > FAR
    for size in np.unique(count[judged]):
        here = judged & (count == size)
        if here.sum() < FEWEST_PRODUCTS or far[here].mean() > KERNELS:
            far[here] = False
    return far


def _groups(keys: pd.DataFrame, judged: NDArray[np.bool_]) -> list[NDArray[np.intp]]:
    """Positions of the judged rows, by product."""
    places = np.flatnonzero(judged)
    by_key = keys.iloc[places].groupby(["n", "k"], sort=True).indices
    return [places[index] for index in by_key.values()]
