"""Fit a profile: measurement files in, `profiles/<gpu>/` out, bit for bit repeatable."""

from __future__ import annotations

import gzip
import json
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from revati.latency.store import BANDWIDTH_FILE, MODELS_DIR, PROVENANCE_FILE, sha256_file
from revati.profiler import bandwidth_fit, measure, training
from revati.spec import load_spec

if TYPE_CHECKING:
    import pandas as pd

GEMM_KINDS = ("bf16", "fp8", "fp8_block", "int8", "int4_wo", "fp4")
RANGE_COLUMNS = {
    "gemm": ("m", "n", "k"),
    "decode": ("heads", "kv_heads", "head_dim", "decode_seqs", "decode_kv"),
    "prefill": ("heads", "kv_heads", "head_dim", "prefill_seqs", "prefill_q", "prefill_context"),
    "mixed": ("heads", "kv_heads", "head_dim", "prefill_q", "prefill_context", "decode_seqs", "decode_kv"),
    "moe": ("tokens", "topk", "experts", "hidden", "inter"),
}
GRID_COLUMNS = {
    "gemm": ("m",), "decode": ("decode_seqs", "decode_kv"), "prefill": ("prefill_q",),
    "mixed": ("decode_seqs",),
}  # fmt: skip
POOLED_FAMILIES = ("gemm", "attention")
MIXED_ROWS_LIMIT = 40_000


def load_rows(gpu: str, files: list[Path], pool: list[Path]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(rows to train on, with column `pooled`; rows of other cards). Raises MeasurementError.

    files: measurements of `gpu`. If several sources measured a family, the profiler's kernel times are the
    profile's own and the rest is pooled. pool: measurements of other cards, used for GEMM and attention
    features.
    """
    import pandas as pd

    own = pd.concat([measure.read(f) for f in files], ignore_index=True)
    wrong = own[own["gpu"] != gpu]
    if len(wrong):
        raise measure.MeasurementError(
            f"measurements of {wrong['gpu'].iloc[0]!r} among those of {gpu!r}; one card's files are expected"
        )
    own["pooled"] = 0.0
    for family in POOLED_FAMILIES:
        rows = own["family"] == family
        if own.loc[rows, "timing"].nunique() > 1:
            own.loc[rows & (own["timing"] == "graph"), "pooled"] = 1.0
    only = own[own["pooled"] == 0].groupby("family")["kind"].unique()
    for family, kind in own[own["pooled"] == 1][["family", "kind"]].drop_duplicates().itertuples(index=False):
        if kind not in only.get(family, []):
            own.loc[(own["family"] == family) & (own["kind"] == kind), "pooled"] = 0.0
    if not pool:
        return own, own.iloc[:0]
    other = pd.concat([measure.read(f) for f in pool], ignore_index=True)
    other["pooled"] = 1.0
    return own, other


class Fitter:
    """Fits one profile into `folder`. `pool_shapes`: train GEMM and attention on other cards' rows too."""

    def __init__(
        self, gpu: str, own: pd.DataFrame, other: pd.DataFrame, folder: Path, pool_shapes: bool
    ) -> None:
        self.gpu = gpu
        self.spec = load_spec(gpu)
        self.own = own
        self.other = other
        self.folder = folder
        self.models: dict[str, dict[str, Any]] = {}
        self.written: list[str] = []
        self.training = self._training_rows() if pool_shapes else own

    def _training_rows(self) -> pd.DataFrame:
        import pandas as pd

        rows = self.other[self.other["family"].isin(POOLED_FAMILIES)]
        mixed = rows[(rows["prefill_seqs"] > 0) & (rows["decode_seqs"] > 0)]
        if len(mixed) > MIXED_ROWS_LIMIT:
            drop = mixed.sample(len(mixed) - MIXED_ROWS_LIMIT, random_state=0).index
            rows = rows.drop(index=drop)
        return pd.concat([self.own, rows], ignore_index=True)

    def fit(self, only: str | None = None) -> None:
        """Every family that the measurements cover, or the family (a GEMM kind, an attention part) `only`."""
        (self.folder / MODELS_DIR).mkdir(parents=True, exist_ok=True)
        for kind in GEMM_KINDS:
            if only not in (None, f"gemm.{kind}", "layers"):
                continue
            if ((self.own["family"] == "gemm") & (self.own["kind"] == kind)).any():
                data = training.gemm_set(self.training, self.gpu, kind)
                self._save(f"gemm.{kind}", "gemm", "gemm", data, kind=kind)
        if (self.own["family"] == "attention").any():
            for part in ("decode", "prefill", "mixed"):
                if only not in (None, f"attention.{part}", "layers"):
                    continue
                data = training.attention_set(self._thinned(part), self.gpu, part)
                self._save(f"attention.{part}", "attention", part, data, part=part)
        if only in (None, "moe"):
            data = training.moe_set(self.own, self.gpu)
            if data is not None:
                self._save("moe", "moe", "moe", data, kinds=sorted(data.frame["kind"].unique()))
        if only in (None, "collective"):
            self._collectives()
        if only not in (None, "layers"):
            return
        bandwidth = bandwidth_fit.fit_all(self.own, self.other, self.spec)
        self._write(BANDWIDTH_FILE, {name: model.to_json() for name, model in sorted(bandwidth.items())})

    def _thinned(self, part: str) -> pd.DataFrame:
        rows = self.training
        if part != "mixed":
            return rows
        mixed = rows[(rows["prefill_seqs"] > 0) & (rows["decode_seqs"] > 0) & (rows["pooled"] == 0)]
        if len(mixed) <= MIXED_ROWS_LIMIT:
            return rows
        return rows.drop(index=mixed.sample(len(mixed) - MIXED_ROWS_LIMIT, random_state=0).index)

    def _save(
        self, name: str, family: str, recipe: str, data: training.TrainingSet | None, **extra: Any
    ) -> None:  # fmt: skip
        if data is None:
            return
        model = training.train(data, recipe)
        file = f"{name.replace('.', '_')}.ubj.gz"
        path = self.folder / MODELS_DIR / file
        with path.open("wb") as handle, gzip.GzipFile("", "wb", 9, handle, mtime=0) as zipped:
            zipped.write(training.shrink(model))
        frame = data.frame
        own = frame[frame["pooled"] == 0] if (frame["pooled"] == 0).any() else frame
        base = self.own[(self.own["family"] == family) & (self.own["pooled"] == own["pooled"].iloc[0])]
        if "kind" in extra:
            base = base[base["kind"] == extra["kind"]]
        entry: dict[str, Any] = {
            "family": family, "file": file, "rows": len(own), "pooled_rows": len(frame) - len(own),
            "timing": str(base["timing"].iloc[0]), "l2": str(base["l2"].iloc[0]),
            "implementations": sorted(base["implementation"].dropna().unique()),
            "engine_versions": sorted(base["engine_version"].dropna().unique()),
            "ranges": {c: [float(frame[c].min()), float(frame[c].max())] for c in RANGE_COLUMNS[recipe]},
            "parameters": {**training.COMMON, **training.PARAMETERS[recipe]}, **extra,
        }  # fmt: skip
        if training.DOUBTFUL in frame:
            entry["doubtful_rows"] = int(frame[training.DOUBTFUL].sum())
        if recipe in GRID_COLUMNS:
            entry["grid"] = {c: sorted(float(x) for x in own[c].unique()) for c in GRID_COLUMNS[recipe]}
        if recipe == "prefill":
            entry["has_context"] = bool((own["prefill_context"] > 0).any())
        self.models[name] = entry
        self.written.append(f"{MODELS_DIR}/{file}")

    def _collectives(self) -> None:
        rows = self.own[self.own["family"] == "collective"]
        if rows.empty:
            return
        tables: dict[str, Any] = {}
        keys = ["implementation", "label", "world_size", "read_bytes"]
        mean = training.mean_latency(rows, keys)
        for implementation, op, ranks, payload, ns in mean[[*keys, "latency_ns"]].to_numpy().tolist():
            name = "nccl" if implementation.upper() == "NCCL" else "custom"
            curve = (
                tables.setdefault(name, {})
                .setdefault(op, {})
                .setdefault(str(int(ranks)), {"bytes": [], "ns": []})
            )
            curve["bytes"].append(float(payload))
            curve["ns"].append(round(float(ns), 1))
        self._write(f"{MODELS_DIR}/collective.json", tables)
        self.models["collective"] = {
            "family": "collective", "file": "collective.json", "rows": len(rows),
            "timing": str(rows["timing"].iloc[0]), "l2": "warm",
            "implementations": sorted(rows["implementation"].unique()),
            "engine_versions": sorted(rows["engine_version"].dropna().unique()),
            "ranges": {"read_bytes": [float(rows["read_bytes"].min()), float(rows["read_bytes"].max())]},
        }  # fmt: skip

    def _write(self, name: str, content: Any) -> None:
        text = json.dumps(content, indent=None if name.startswith(MODELS_DIR) else 1, sort_keys=True)
        (self.folder / name).write_text(text.replace("NaN", "null") + "\n")
        self.written.append(name)

    def provenance(self, sources: list[dict[str, str]], command: str) -> dict[str, Any]:
        """What provenance.json holds: enough to rebuild every file from the named sources."""
        import xgboost

        return {
            "gpu": self.gpu, "schema": measure.SCHEMA_VERSION, "command": command,
            "xgboost": xgboost.__version__, "numpy": np.__version__, "sources": sources,
            "models": self.models,
            "files": {name: sha256_file(self.folder / name) for name in sorted(set(self.written))},
        }  # fmt: skip


def fit_profile(
    gpu: str, files: list[Path], pool: list[Path], folder: Path, *, pool_shapes: bool
) -> dict[str, Any]:
    """Fit `gpu` from measurement `files` (and other cards' `pool`) into `folder`; returns the provenance."""
    own, other = load_rows(gpu, files, pool)
    with tempfile.TemporaryDirectory() as scratch:
        fitter = Fitter(gpu, own, other, Path(scratch), pool_shapes)
        fitter.fit()
        (folder / MODELS_DIR).mkdir(parents=True, exist_ok=True)
        for name in fitter.written:
            shutil.copyfile(Path(scratch) / name, folder / name)
    fitter.folder = folder
    sources = [s for f in files + pool for s in measure.read_sources(f)]
    provenance = fitter.provenance(sources, f"revati profile fit {gpu}")
    provenance["pool"] = {"files": [p.name for p in pool], "shapes": pool_shapes}
    text = json.dumps(provenance, indent=1, sort_keys=True) + "\n"
    (folder / PROVENANCE_FILE).write_text(text)
    return provenance
