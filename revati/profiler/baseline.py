"""AIConfigurator's own estimate on held-out rows, for the report only.

Its engine reads a systems folder; it is given a copy in which one table lacks the held-out shapes (the rest
are links), and asked for them. Nothing of it is used to fit or to predict. Prefill is left out: asked for
shapes that are in its own table, the engine answers with other numbers (29% away on H100), so that a
comparison would say nothing.
"""

from __future__ import annotations

import importlib
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from revati.profiler.importers import aiconfigurator
from revati.profiler.measure import MeasurementError

if TYPE_CHECKING:
    import pandas as pd

TABLES = {
    "gemm": "gemm",
    "attention.decode": "generation_attention",
}
KEYS = {
    "gemm": (["m", "n", "k"], ["m", "n", "k"]),
    "attention.decode": (
        ["decode_seqs", "decode_kv", "heads", "kv_heads", "head_dim", "window"],
        ["batch_size", "keys", "num_heads", "num_key_value_heads", "head_dim", "window_size"],
    ),
}
GEMM_MODES = {"bf16": "bfloat16"}
"""Its fp8 answers include the quantisation of the activations, which our rows do not."""


class Baseline:
    """package: folder that holds the unpacked `aiconfigurator_core`; engine: whose tables."""

    def __init__(self, package: Path, gpu: str, engine: str = "vllm") -> None:
        if not (package / "aiconfigurator_core" / "systems").is_dir():
            raise MeasurementError(f"{package}: no aiconfigurator_core/systems; give the unpacked wheel")
        sys.path.insert(0, str(package))
        try:
            self.database = importlib.import_module("aiconfigurator_core.sdk.perf_database")
            self.common = importlib.import_module("aiconfigurator_core.sdk.common")
            self.gemm = importlib.import_module("aiconfigurator_core.sdk.operations.gemm").GEMM
            attention = importlib.import_module("aiconfigurator_core.sdk.operations.attention")
        except ImportError as error:
            raise MeasurementError(f"{package}: cannot load aiconfigurator_core ({error})") from None
        self.decode = attention.GenerationAttention
        self.systems = package / "aiconfigurator_core" / "systems"
        self.system = aiconfigurator.FOLDERS.get(gpu, gpu)
        self.engine = engine
        self.files = aiconfigurator.source_files(self.systems / "data", gpu, engine)

    def mape(self, model: str, held: pd.DataFrame, asked: pd.DataFrame) -> float | None:
        """Error on the rows `asked` when all of `held` is missing from the table; None for other models."""
        table = "gemm" if model.startswith("gemm") else model
        if table not in TABLES or TABLES[table] not in self.files:
            return None
        if table == "gemm" and asked["kind"].iloc[0] not in GEMM_MODES:
            return None
        with tempfile.TemporaryDirectory() as folder:
            source = self.files[TABLES[table]]
            self._copy_without(Path(folder), source, table, held)
            database = self.database.get_database(
                self.system, self.engine, source.parent.name, systems_paths=[folder], shared_layer=False
            )
            if database is None:
                return None
            estimates = np.array([self._ask(database, table, row) for row in asked.itertuples()])
        found: NDArray[np.float64] = np.abs(estimates / asked["latency_ns"].to_numpy(dtype=float) - 1)
        return float(np.nanmean(found)) if np.isfinite(found).mean() > 0.9 else None

    def _copy_without(self, folder: Path, source: Path, table: str, held: pd.DataFrame) -> None:
        import pandas as pd

        relative = source.relative_to(self.systems)
        original, copy = self.systems, folder
        for part in relative.parts:
            for entry in original.iterdir():
                if entry.name != part:
                    (copy / entry.name).symlink_to(entry)
            original, copy = original / part, copy / part
            if part != relative.name:
                copy.mkdir()
        raw = pd.read_parquet(source)
        if table == "attention.decode":
            raw["keys"] = raw["step"].astype(int) + raw["isl"].astype(int)
        ours, theirs = KEYS[table]
        added = [name for name in theirs if name not in raw]  # tables without windows have no such column
        raw[added] = 0
        gone = pd.MultiIndex.from_frame(held[ours].astype(int))
        kept = raw[~pd.MultiIndex.from_frame(raw[theirs].astype(int)).isin(gone)]
        kept.drop(columns=[*added, "keys"], errors="ignore").to_parquet(copy, index=False)

    def _ask(self, database: Any, table: str, row: Any) -> float:
        try:
            if table == "gemm":
                mode = self.common.GEMMQuantMode[GEMM_MODES[row.kind]]
                return (
                    float(
                        self.gemm("g", 1, int(row.n), int(row.k), mode)._engine_query(database, x=int(row.m))
                    )
                    * 1e6
                )
            cache = self.common.KVCacheQuantMode["fp8" if row.kv_kind == "fp8" else "bfloat16"]
            window = {"window_size": int(row.window), "head_size": int(row.head_dim)}
            op = self.decode("a", 1, int(row.heads), int(row.kv_heads), cache, **window)
            return float(op._engine_query(database, batch_size=row.decode_seqs, s=row.decode_kv)) * 1e6
        except Exception:  # its own exception types; no answer counts as missing
            return float("nan")
