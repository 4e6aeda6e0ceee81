"""Training sets and boosters: measurements in, XGBoost models out, the same bits every time.

Each `*_set` function turns rows of the measurement schema into features, roofline and target. Rows of another
card or method may be pooled in (column `pooled` is 1); their features use their own card's spec.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from revati.latency.families import attention_features as af
from revati.latency.families import gemm, moe
from revati.profiler.outliers import contradicted
from revati.spec import load_spec

if TYPE_CHECKING:
    import pandas as pd

Array = NDArray[np.float64]

PARAMETERS: dict[str, dict[str, Any]] = {
    "gemm": {"max_depth": 7, "eta": 0.08, "subsample": 0.8, "colsample_bytree": 0.5, "rounds": 600},
    "decode": {"max_depth": 7, "eta": 0.08, "rounds": 800},
    "prefill": {"max_depth": 7, "eta": 0.08, "subsample": 0.8, "colsample_bytree": 0.4, "rounds": 600},
    "mixed": {"max_depth": 7, "eta": 0.08, "subsample": 0.8, "colsample_bytree": 0.6, "rounds": 500},
    "moe": {"max_depth": 6, "eta": 0.1, "subsample": 0.8, "colsample_bytree": 0.6, "rounds": 400},
}
TUNE: dict[str, Any] = {"max_depth": 4, "eta": 0.1, "subsample": 0.8, "colsample_bytree": 0.6}
TUNE_ROUNDS = 300
DOUBTFUL = "doubtful"
COMMON = {"tree_method": "hist", "max_bin": 512, "objective": "reg:squarederror", "seed": 0, "nthread": 1}


@dataclass
class TrainingSet:
    """Rows of one model. time_us is measured; the target is log(time_us / (roof_us + offset_us))."""

    frame: pd.DataFrame
    matrix: Array
    roof_us: Array
    time_us: Array
    offset_us: float

    def target(self) -> Array:
        """What the booster learns."""
        out: Array = np.log(self.time_us / (self.roof_us + self.offset_us))
        return out

    def rows(self, mask: NDArray[np.bool_]) -> TrainingSet:
        """The rows where `mask`."""
        return TrainingSet(
            self.frame[mask], self.matrix[mask], self.roof_us[mask], self.time_us[mask], 
            self.offset_us,
        )  # fmt: skip


def train(data: TrainingSet, part: str, rounds: int | None = None) -> Any:
    """An xgboost.Booster for `part` (a key of PARAMETERS); deterministic. Doubtful rows are not trained on.

    With pooled rows: trained on those first, then continued with shallow trees on the card's own, so that
    what the own rows do not cover keeps the shape of the other card's answer.
    """
    import xgboost

    parameters = {**COMMON, **PARAMETERS[part]}
    count = parameters.pop("rounds")
    if rounds is not None:
        count = rounds
    if DOUBTFUL in data.frame:
        data = data.rows(_column(data.frame, DOUBTFUL) == 0)
    pooled = _column(data.frame, "pooled") > 0
    target = data.target()
    if not pooled.any() or pooled.all():
        return xgboost.train(parameters, xgboost.DMatrix(data.matrix, target), count)
    base = xgboost.train(parameters, xgboost.DMatrix(data.matrix[pooled], target[pooled]), count)
    own = xgboost.DMatrix(data.matrix[~pooled], target[~pooled])
    return xgboost.train({**COMMON, **TUNE}, own, TUNE_ROUNDS, xgb_model=base)


FEWEST_ROWS = 50
"""Of a GEMM kind or an attention part, or no model. One dense model gives about 100 GEMMs to collect."""

UNUSED_BY_PREDICTION = ("loss_changes", "sum_hessian", "base_weights")


def shrink(model: Any) -> bytes:
    """The model as UBJ, without the per-node statistics that only training reads (half of the file)."""
    import xgboost

    raw = json.loads(bytes(model.save_raw("json")))
    for tree in raw["learner"]["gradient_booster"]["model"]["trees"]:
        for name in UNUSED_BY_PREDICTION:
            tree[name] = [0.0] * len(tree[name])
    slim = xgboost.Booster()
    slim.load_model(bytearray(json.dumps(raw).encode()))
    return bytes(slim.save_raw("ubj"))


def predict_us(model: Any, data: TrainingSet) -> Array:
    """Predicted time of each row, us."""
    out: Array = np.exp(model.inplace_predict(data.matrix)) * (data.roof_us + data.offset_us)
    return out


def _column(frame: pd.DataFrame, name: str) -> Array:
    values: Array = frame[name].to_numpy(dtype=float, na_value=0.0)
    return values


def _stack(
    frame: pd.DataFrame, offset_us: float, build: Any
) -> TrainingSet:  # fmt: skip
    """One set over the rows of all cards in `frame`, each with its own spec."""
    import pandas as pd

    matrices, roofs, frames = [], [], []
    for gpu, rows in frame.groupby("gpu", sort=True):
        matrix, roof = build(rows, load_spec(str(gpu)))
        matrices.append(matrix)
        roofs.append(roof)
        frames.append(rows)
    merged = pd.concat(frames)
    return TrainingSet(
        merged.reset_index(drop=True), np.vstack(matrices), np.concatenate(roofs),
        _column(merged, "latency_ns") / 1e3, offset_us,
    )  # fmt: skip


def mean_latency(rows: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """One row for each combination of `keys`, in their order, with the mean latency."""
    return rows[[*keys, "latency_ns"]].groupby(keys, as_index=False, sort=True).mean()


def gemm_set(frame: pd.DataFrame, gpu: str, kind: str) -> TrainingSet | None:
    """GEMM rows of one kind; repeated shapes are averaged. Column `doubtful`: not to be trained on."""
    rows = frame[(frame["family"] == "gemm") & (frame["kind"] == kind) & (frame["batch"] == 1)]
    if len(rows) < FEWEST_ROWS:
        return None
    rows = mean_latency(rows, ["gpu", "pooled", "m", "n", "k"])

    def sizes(part: pd.DataFrame) -> tuple[Array, Array, Array]:
        return _column(part, "m"), _column(part, "n"), _column(part, "k")

    def build(part: pd.DataFrame, spec: Any) -> tuple[Array, Array]:
        return gemm.features(*sizes(part), kind, spec)

    rows[DOUBTFUL] = 0.0
    for (card, _), table in rows.groupby(["gpu", "pooled"]):
        bound = gemm.memory_bound(*sizes(table), kind, load_spec(str(card)))
        rows.loc[table.index[contradicted(table, bound)], DOUBTFUL] = 1.0
    return _stack(rows, gemm.OFFSET_US, build)


_HEADS = ["heads", "kv_heads", "head_dim", "window", "kv_kind"]


def heads_of(rows: pd.DataFrame) -> af.Heads:
    """Head configuration of measurement rows."""
    return af.Heads(
        _column(rows, "heads"), _column(rows, "kv_heads"), _column(rows, "head_dim"), _column(rows, "window"),
        np.where(rows["kv_kind"] == "fp8", 1.0, 0.0),
    )  # fmt: skip


def attention_set(frame: pd.DataFrame, gpu: str, part: str) -> TrainingSet | None:
    """Attention rows of one part: "decode", "prefill" or "mixed"."""
    rows = frame[frame["family"] == "attention"]
    decodes = rows["decode_seqs"] > 0
    prefills = (rows["prefill_seqs"] > 0) & (rows["prefill_q"] > 1)  # one new token is a decode call
    rows = rows[
        {"decode": decodes & ~prefills, "prefill": prefills & ~decodes, "mixed": decodes & prefills}[part]
    ]
    if len(rows) < FEWEST_ROWS:
        return None
    keys = ["prefill_seqs", "prefill_q", "prefill_context", "decode_seqs", "decode_kv"]
    rows = mean_latency(rows, ["gpu", "pooled", *_HEADS, *keys])

    def build(some: pd.DataFrame, spec: Any) -> tuple[Array, Array]:
        heads = heads_of(some)
        size = {name: _column(some, name) for name in keys}
        if part == "decode":
            return af.decode(size["decode_seqs"], size["decode_kv"], heads, spec)
        if part == "prefill":
            return af.prefill(size["prefill_seqs"], size["prefill_q"], size["prefill_context"], heads, spec)
        mixed = af.MixedRows(
            size["prefill_seqs"], size["prefill_q"], size["prefill_context"], size["decode_seqs"],
            size["decode_kv"], size["decode_kv"],
        )  # fmt: skip
        return af.mixed(mixed, heads, spec)

    return _stack(rows, af.OFFSET_US, build)


def moe_set(frame: pd.DataFrame, gpu: str) -> TrainingSet | None:
    """Expert layers of all kinds; the fastest implementation of a shape stands for it."""
    rows = frame[(frame["family"] == "moe") & frame["kind"].isin(moe.KINDS)]
    rows = rows[rows["distribution"] == "balanced"]
    if len(rows) < 200:
        return None
    keys = ["gpu", "pooled", "kind", "tokens", "topk", "experts", "hidden", "inter"]
    rows = rows[[*keys, "latency_ns"]].groupby(keys, as_index=False, sort=True).min()

    def build(some: pd.DataFrame, spec: Any) -> tuple[Array, Array]:
        matrices, roofs, order = [], [], []
        for kind, group in some.groupby("kind", sort=True):
            size = [_column(group, name) for name in keys[3:]]
            active = moe.balanced_experts(size[0], size[1], size[2])
            matrix, roof = moe.features(size[0], size[1], size[2], size[3], size[4], str(kind), active, spec)
            matrices.append(matrix)
            roofs.append(roof)
            order.append(group.index.to_numpy())
        inverse = np.argsort(np.concatenate([np.searchsorted(some.index.to_numpy(), o) for o in order]))
        return np.vstack(matrices)[inverse], np.concatenate(roofs)[inverse]

    return _stack(rows, moe.OFFSET_US, build)
