"""Which rows of a GEMM table are not trained on."""

import numpy as np
import pandas as pd
import pytest

from revati.profiler import outliers, training

ROWS = (*range(1, 18), 32, 33, 48, 49, 64, 65, 80, 81, 96, 97, 112, 113, 128)
PRODUCTS = tuple((4096 + 1024 * j, 8192) for j in range(40))


def table(seed: int = 0) -> pd.DataFrame:
    """Products whose time is their weights' and 1% noise."""
    draw = np.random.default_rng(seed)
    sizes = [(m, n, k) for n, k in PRODUCTS for m in ROWS]
    rows = pd.DataFrame(sizes, columns=["m", "n", "k"])
    rows["latency_ns"] = rows["n"] * rows["k"] * 2 / 3.0 * (1 + 0.01 * draw.standard_normal(len(rows)))
    rows["latency_ns"] /= 1e3
    return rows


def judge(rows: pd.DataFrame, bound: bool = True) -> np.ndarray:
    return outliers.contradicted(rows, np.full(len(rows), bound))


def test_random_slow_rows_are_found_and_no_others():
    rows = table()
    slow = np.random.default_rng(1).random(len(rows)) < 0.15
    rows.loc[slow, "latency_ns"] *= 1.16
    found = judge(rows)
    assert found[slow].mean() > 0.95
    assert found[~slow].mean() < 0.02


def test_rows_that_are_too_fast_are_doubted_like_slow_ones():
    rows = table()
    fast = (rows["m"] == 9) & (rows["n"] == 8192)
    rows.loc[fast, "latency_ns"] *= 0.85
    assert np.array_equal(judge(rows), fast.to_numpy())


def test_a_kernel_that_is_slow_at_a_size_is_kept():
    rows = table()
    rows.loc[rows["m"] == 17, "latency_ns"] *= 1.3
    assert not judge(rows).any()


@pytest.mark.parametrize("change", ["compute", "short", "many", "alone", "few"])
def test_what_is_not_judged(change):
    rows = table()
    odd = (rows["m"] == 8) & (rows["n"] == 8192)
    rows.loc[odd, "latency_ns"] *= 1.3
    if change == "short":
        rows["latency_ns"] *= 0.5 * outliers.LEAST_NS / rows["latency_ns"].max()
    if change == "many":
        rows["m"] += outliers.MOST_ROWS
    if change == "alone":
        rows = rows[rows["m"].isin((1, 8, 64, 128))].reset_index(drop=True)
    if change == "few":
        rows = rows[rows["n"] <= 12288].reset_index(drop=True)
    assert judge(rows).any() == (change == "compute")
    assert not judge(rows, bound=change != "compute").any()


def test_doubtful_rows_do_not_teach_the_model():
    rows = table().assign(gpu="h100_sxm", pooled=0.0, family="gemm", kind="bf16", batch=1)
    clean = training.gemm_set(rows, "h100_sxm", "bf16")
    slow = np.random.default_rng(1).random(len(rows)) < 0.15
    rows.loc[slow, "latency_ns"] *= 1.16
    data = training.gemm_set(rows, "h100_sxm", "bf16")
    assert clean is not None and data is not None
    assert len(data.frame) == len(rows), "all rows are there to be compared with"
    error = training.predict_us(training.train(data, "gemm"), clean) / clean.time_us - 1
    assert abs(error.mean()) < 0.01
    assert np.quantile(np.abs(error), 0.95) < 0.04
