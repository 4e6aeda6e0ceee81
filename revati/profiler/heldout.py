"""Errors at shapes that were left out: each split fits without them, then asks the estimator that ships.

Nothing here knows what a good figure is. A row of the result names the split, how many rows were held
out, and the mean absolute percentage error of ours and of the roofline on the very same rows.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from revati.latency.ops.attention import attention_work
from revati.latency.ops.comm import collective_work
from revati.latency.ops.gemm import gemm_work
from revati.latency.roofline import roofline_ns
from revati.latency.store import Profile
from revati.latency.work import AttentionShape, Work
from revati.profiler import training
from revati.profiler.fit import Fitter
from revati.spec import load_spec

if TYPE_CHECKING:
    import pandas as pd

    from revati.profiler.baseline import Baseline

BASELINE_ROWS = 1500
ROWS_LIMIT = 6000
FOLDS = 8
Mask = NDArray[np.bool_]
Chooser = Callable[["pd.DataFrame"], Mask]


@dataclass(frozen=True)
class Result:
    """One line of the table. Errors are fractions; `top_flops`: of the tenth with most operations."""

    family: str
    split: str
    rows: int
    ours: float
    median: float
    p95: float
    roofline: float
    top_flops: float | None = None
    top_flops_roofline: float | None = None
    aiconfigurator: float | None = None


def row_work(row: Any) -> Work:
    """Work of one measurement row."""
    if row.family == "gemm":
        return gemm_work(int(row.m), int(row.n), int(row.k), row.kind)
    if row.family == "attention":
        seqs = ((1, int(row.decode_kv)),) * int(row.decode_seqs)
        query = int(row.prefill_q)
        seqs += ((query, query + int(row.prefill_context)),) * int(row.prefill_seqs)
        shape = AttentionShape(
            seqs, int(row.heads), int(row.kv_heads), int(row.head_dim), int(row.head_dim),
            window=int(row.window), kv_kind=row.kv_kind,
        )  # fmt: skip
        return attention_work(shape)
    if row.family == "collective":
        implementation = "nccl" if row.implementation.upper() == "NCCL" else "custom"
        return collective_work(row.label, row.read_bytes, int(row.world_size), "bfloat16", implementation)
    return Work(family=row.family, read_bytes=row.read_bytes, write_bytes=row.write_bytes)


class _AsTimed(Profile):
    """Estimates as the table's clock would have shown them: no gap taken off, no L2 correction."""

    def __init__(self, fitter: Fitter) -> None:
        super().__init__(fitter.spec, fitter.folder)
        models = {name: {**e, "timing": "kernel", "l2": "cold"} for name, e in fitter.models.items()}
        self.provenance = {"models": models, "files": dict.fromkeys(fitter.written)}


def predict_without(
    gpu: str, own: pd.DataFrame, other: pd.DataFrame, pool_shapes: bool, held: Mask, model: str
) -> tuple[pd.DataFrame, NDArray[np.float64], NDArray[np.float64]]:
    """(held-out rows, predictions ns, rooflines ns) of `model` fitted on the rows of `own` not in `held`."""
    rows = own[held]
    if len(rows) > ROWS_LIMIT:
        rows = rows.sample(ROWS_LIMIT, random_state=0)
    with tempfile.TemporaryDirectory() as folder:
        fitter = Fitter(gpu, own[~held], other, Path(folder), pool_shapes)
        fitter.fit(only=model)
        profile = _AsTimed(fitter)
        ours, roof = [], []
        for row in rows.itertuples():
            work = row_work(row)
            estimate = profile.estimate(work)
            ours.append(estimate[0] if estimate is not None else float("nan"))
            roof.append(roofline_ns(work, profile.spec))
    return rows, np.array(ours), np.array(roof)


def _result(
    family: str, split: str, rows: pd.DataFrame, ours: NDArray[np.float64], roof: NDArray[np.float64]
) -> Result:  # fmt: skip
    measured = rows["latency_ns"].to_numpy()
    error, bound = np.abs(ours / measured - 1), np.abs(roof / measured - 1)
    top = top_roof = None
    if family.startswith("gemm"):
        flops = (rows["m"] * rows["n"] * rows["k"]).to_numpy(dtype=float)
        heavy = flops >= np.quantile(flops, 0.9)
        top, top_roof = float(error[heavy].mean()), float(bound[heavy].mean())
    return Result(
        family, split, len(rows), float(error.mean()), float(np.median(error)), 
        float(np.quantile(error, 0.95)),
        float(bound.mean()), top, top_roof,
    )  # fmt: skip


def _groups(frame: pd.DataFrame, columns: list[str], folds: int, fold: int) -> Mask:
    """Rows whose combination of `columns` falls into `fold` of `folds` (shuffled, fixed seed)."""
    keys = frame[columns].astype("int64").astype(str).agg("_".join, axis=1).to_numpy()
    names = np.unique(keys)
    chosen = set(np.random.RandomState(0).permutation(names)[fold::folds])
    out: Mask = np.array([key in chosen for key in keys], dtype=bool)
    return out


def _levels(frame: pd.DataFrame, column: str, start: int, step: int = 3) -> Mask:
    """Rows at every `step`-th inner level of `column`."""
    levels = np.sort(frame[column].unique())
    out: Mask = np.isin(frame[column].to_numpy(), levels[start:-1:step])
    return out


def _by_group(columns: list[str], folds: int, fold: int) -> Chooser:
    return lambda frame: _groups(frame, columns, folds, fold)


def _by_level(column: str, start: int, step: int = 3) -> Chooser:
    return lambda frame: _levels(frame, column, start, step)


def splits(frame: pd.DataFrame) -> Iterator[tuple[str, str, str, list[Chooser]]]:
    """(family label, split label, model, choosers); a chooser marks what to leave out of a model's rows."""
    for kind in sorted(frame.loc[frame["family"] == "gemm", "kind"].unique()):
        model = f"gemm.{kind}"
        yield f"gemm {kind}", "unseen (n, k) pairs", model, [_by_group(["n", "k"], 10, i) for i in range(3)]
        yield f"gemm {kind}", "random tenth", model, [_by_group(["m", "n", "k"], 10, 0)]
    if (frame["family"] == "attention").any():
        heads = [_by_group(["heads", "kv_heads"], FOLDS, i) for i in range(3)]
        for part, length in (("decode", "decode_kv"), ("prefill", "prefill_q")):
            yield f"{part} attention", "unseen head pairs", f"attention.{part}", heads
            lengths = [_by_level(length, i) for i in (1, 2)]
            yield f"{part} attention", "unseen lengths", f"attention.{part}", lengths
        point = ["prefill_q", "prefill_context", "decode_seqs", "decode_kv"]
        yield "mixed attention", "unseen points", "attention.mixed", [_by_group(point, 10, 0)]
        for column in point:
            chooser = _by_level(column, 2, 4)
            yield "mixed attention", f"unseen {column}", "attention.mixed", [chooser]


def _rows_of(frame: pd.DataFrame, model: str) -> pd.Series:
    family, _, part = model.partition(".")
    rows = (frame["family"] == family) & (frame["pooled"] == 0)
    if family == "gemm":
        return rows & (frame["kind"] == part)
    decode = frame["decode_seqs"] > 0
    prefill = (frame["prefill_seqs"] > 0) & (frame["prefill_q"] > 1)
    return rows & {"decode": decode & ~prefill, "prefill": prefill & ~decode, "mixed": decode & prefill}[part]


def shape_results(
    gpu: str,
    own: pd.DataFrame,
    other: pd.DataFrame,
    pool_shapes: bool,
    note: Callable[[str], None],
    theirs: Baseline | None = None,
    wanted: Callable[[str], bool] = lambda family: True,
) -> list[Result]:
    """All splits of the `wanted` families of GEMM and attention that the card's measurements allow."""
    import pandas as pd

    results = []
    for family, split, model, masks in splits(own):
        if not wanted(family):
            continue
        candidates = own[_rows_of(own, model)]
        if len(candidates) < 90:
            continue
        note(f"{gpu}: {family}, {split}")
        parts = []
        baselines = []
        for mask in masks:
            chosen = candidates.index[mask(candidates)]
            if 0 < len(chosen) < len(candidates) * 0.6:
                held = own.index.isin(chosen)
                parts.append(predict_without(gpu, own, other, pool_shapes, held, model))
                if theirs is not None:
                    asked = parts[-1][0].sample(min(BASELINE_ROWS, len(parts[-1][0])), random_state=0)
                    baselines.append(theirs.mape(model, own[held], asked))
        if parts:
            rows = pd.concat([p[0] for p in parts])
            ours, roof = np.concatenate([p[1] for p in parts]), np.concatenate([p[2] for p in parts])
            known = [b for b in baselines if b is not None]
            result = _result(family, split, rows, ours, roof)
            results.append(replace(result, aiconfigurator=float(np.mean(known)) if known else None))
    return results


def step_results(gpu: str, own: pd.DataFrame, note: Callable[[str], None]) -> list[Result]:
    """Rows inside a step of 256, by the line between its measured ends, as `families.gemm` prices them.

    Only the step from 129 rows on was measured inside (160, 161, 192, 193, 224, 225). Products too small to
    fill the card are left out: n below 2048 or k below 1024.
    """
    rows = own[(own["family"] == "gemm") & (own["batch"] == 1) & (own["pooled"] == 0)]
    rows = rows[(rows["n"] >= 2048) & (rows["k"] >= 1024)]
    results = []
    for kind, table in rows.groupby("kind", sort=True):
        mean = training.mean_latency(table, ["m", "n", "k"])
        ends = {m: mean[mean["m"] == m].set_index(["n", "k"])["latency_ns"] for m in (129, 256)}
        inside = mean[mean["m"].isin((160, 161, 192, 193, 224, 225))]
        keys = list(zip(inside["n"], inside["k"], strict=True))
        lower, upper = (ends[m].reindex(keys).to_numpy(dtype=float) for m in (129, 256))
        ours = lower + (upper - lower) * (inside["m"].to_numpy(dtype=float) - 129) / (256 - 129)
        known = np.isfinite(ours)
        if not known.any():
            continue
        note(f"{gpu}: gemm steps {kind}")
        spec = load_spec(gpu)
        inside, ours = inside[known], ours[known]
        sizes = zip(*(inside[name].astype(int) for name in ("m", "n", "k")), strict=True)
        roof = np.array([roofline_ns(gemm_work(m, n, k, str(kind)), spec) for m, n, k in sizes])
        results.append(_result(f"gemm steps {kind}", "inside 129 to 256 rows", inside, ours, roof))
    return results


def collective_results(gpu: str, own: pd.DataFrame, note: Callable[[str], None]) -> list[Result]:
    """All-reduce by every third size of each table."""
    rows = own[own["family"] == "collective"]
    results = []
    for implementation in sorted(rows["implementation"].unique()):
        table = rows[(rows["implementation"] == implementation) & (rows["label"] == "allreduce")]
        if table.empty:
            continue
        note(f"{gpu}: all-reduce {implementation}")
        held = own.index.isin(table.index[_levels(table, "read_bytes", 1)])
        kept = own[(own["implementation"] == implementation) | (own["family"] != "collective")]
        part = predict_without(gpu, kept, own.iloc[:0], False, held[own.index.isin(kept.index)], "collective")
        results.append(_result(f"all-reduce {implementation}", "every third size", *part))
    return results


def moe_results(gpu: str, own: pd.DataFrame, note: Callable[[str], None]) -> list[Result]:
    """Expert layers at unseen (hidden, inter, experts): whole layer, balanced load, as in the table."""
    data = training.moe_set(own, gpu)
    if data is None:
        return []
    note(f"{gpu}: experts")
    results = []
    held = [_groups(data.frame, ["hidden", "inter", "experts"], FOLDS, i) for i in range(3)]
    ours, frames, roofs = [], [], []
    for mask in held:
        model = training.train(data.rows(~mask), "moe")
        part = data.rows(mask)
        ours.append(training.predict_us(model, part) * 1e3)
        frames.append(part.frame)
        roofs.append(part.roof_us * 1e3)
    import pandas as pd

    frame = pd.concat(frames)
    results.append(_result("experts", "unseen (hidden, inter, experts)", frame, np.concatenate(ours),
                           np.concatenate(roofs)))  # fmt: skip
    return results


LAYER = {"qkv_proj": 1, "o_proj": 1, "gate_up_proj": 1, "down_proj": 1, "act_fn": 1, "layernorm": 2,
         "rotary_emb": 1, "qk_norm": 2}  # fmt: skip


def layer_results(
    gpu: str, own: pd.DataFrame, other: pd.DataFrame, pool_shapes: bool, note: Callable[[str], None]
) -> list[Result]:
    """Sums over one layer of each measured model, at token counts that no model of the fit has seen."""
    rows = own[own["source"] == "llmservingsim"]
    if rows.empty:
        return []
    results = []
    for split, counts in (
        ("decode step, 8 and 64 sequences", (8, 64)),
        ("prefill chunk, 128 and 512", (128, 512)),
    ):
        note(f"{gpu}: layer sums, {split}")
        decode = split.startswith("decode")
        attention = rows["family"] == "attention"
        column = "decode_seqs" if decode else "prefill_q"
        empty = "prefill_seqs" if decode else "decode_seqs"
        other_column = "decode_kv" if decode else "prefill_context"
        held = (~attention & rows["tokens"].isin(counts)) | (attention & rows[column].isin(counts))
        mask: Mask = own.index.isin(rows.index[held])
        with tempfile.TemporaryDirectory() as folder:
            fitter = Fitter(gpu, own[~mask], other, Path(folder), pool_shapes)
            fitter.fit(only="layers")
            profile = _AsTimed(fitter)
            sums = _layer_sums(profile, rows[held], attention[held], counts, column, empty, other_column)
        for label, values in sorted(sums.items()):
            measured, ours, roof = np.array(values).T
            error = np.abs(ours / measured - 1)
            results.append(
                Result(f"layer sum {label}", split, len(values), float(error.mean()), float(np.median(error)),
                       float(np.quantile(error, 0.95)), float(np.abs(roof / measured - 1).mean()))
            )  # fmt: skip
    return results


def _layer_sums(
    profile: Profile, rows: pd.DataFrame, attention: pd.Series, counts: tuple[int, ...], column: str,
    empty: str,
    other_column: str,
) -> dict[str, list[tuple[float, float, float]]]:  # fmt: skip
    from revati.latency.predictor import Predictor

    predictor = Predictor(profile.spec.id)
    predictor.profile = profile
    sums: dict[str, list[tuple[float, float, float]]] = {}
    model = rows["label"].str.rpartition("/")[0]
    for label in model.unique():
        for count in counts:
            dense = rows[(model == label) & ~attention & (rows["tokens"] == count)]
            total = np.zeros(3)
            for row in dense.itertuples():
                times = LAYER.get(row.label.rpartition("/")[2])
                if times:
                    total += times * _three(predictor, row)
            calls = rows[(model == label) & attention & (rows[column] == count) & (rows[empty] == 0)]
            if len(dense) < 6:
                continue
            for row in calls.sort_values(other_column).itertuples():
                sums.setdefault(label, []).append(tuple(total + _three(predictor, row)))
    return sums


def _three(predictor: Any, row: Any) -> NDArray[np.float64]:
    work = row_work(row)
    if work.family == "qk_norm":
        work = Work(family="norm", read_bytes=work.read_bytes, write_bytes=work.write_bytes)
    ours = predictor.predict_work(work).duration_ns
    return np.array([row.latency_ns, ours, roofline_ns(work, predictor.spec)])


def all_results(
    gpu: str,
    own: pd.DataFrame,
    other: pd.DataFrame,
    pool_shapes: bool,
    note: Callable[[str], None],
    theirs: Baseline | None = None,
    only: Sequence[str] = (),
) -> list[Result]:
    """The held-out table of one card: all of it, or the families whose names begin with one of `only`."""
    load_spec(gpu)

    def wanted(family: str) -> bool:
        return not only or family.startswith(tuple(only))

    results = shape_results(gpu, own, other, pool_shapes, note, theirs, wanted)
    if wanted("gemm steps"):
        results += step_results(gpu, own, note)
    if wanted("all-reduce"):
        results += collective_results(gpu, own, note)
    if wanted("experts"):
        results += moe_results(gpu, own, note)
    if wanted("layer sum"):
        results += layer_results(gpu, own, other, pool_shapes, note)
    return results
