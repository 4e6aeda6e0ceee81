"""One trained XGBoost model on disk and in memory."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from revati.latency.families.forest import Forest

if TYPE_CHECKING:
    from revati.latency.store import Profile

BATCH_ROWS = 64
"""From so many rows on, XGBoost itself is faster than `Forest` (3.5 us against 90 us a row)."""
EDGE = 2.0
"""A size up to this factor outside the measured range is "edge", beyond it "outside"."""


class Booster:
    """A lazily loaded model. `entry` is its record in provenance.json: file, ranges, timing, l2, features.

    gap_ns: what to take off a prediction so that it holds no gap to the next kernel (see `profiler.measure`).
    """

    def __init__(self, profile: Profile, entry: dict[str, Any]) -> None:
        self._profile = profile
        self.entry = entry
        self.ranges: dict[str, tuple[float, float]] = {k: (v[0], v[1]) for k, v in entry["ranges"].items()}
        self.gap_ns = profile.spec.graph_kernel_gap_ns if entry["timing"] == "graph" else 0.0
        self.l2_warm: bool = entry["l2"] == "warm"
        self._forest: Forest | None = None
        self._xgboost: Any = None

    def predict(self, matrix: NDArray[np.float64]) -> NDArray[np.float32]:
        """Raw model output for feature rows; raises ProfileError for a broken file."""
        if self._forest is None:
            self._forest = self._load(matrix.shape[1])
        if len(matrix) < BATCH_ROWS:
            return self._forest.predict(matrix)
        if self._xgboost is None:
            import xgboost

            self._xgboost = xgboost.Booster({"nthread": 1})
            self._xgboost.load_model(bytearray(self._read()[1]))
        out: NDArray[np.float32] = self._xgboost.inplace_predict(matrix)
        return out

    def _read(self) -> tuple[Path, bytes]:
        from revati.latency.store import ProfileError

        path = self._profile.model_path(self.entry["file"])
        if path is None:
            raise ProfileError(
                f"{self._profile.folder}: model {self.entry['file']} is listed but not shipped"
            )
        try:
            return path, gzip.decompress(path.read_bytes())
        except (OSError, EOFError, zlib.error) as error:
            raise ProfileError(f"{path}: not a model ({error})") from None

    def _load(self, columns: int) -> Forest:
        from revati.latency.store import ProfileError

        path, content = self._read()
        try:
            forest = Forest(content)
        except ValueError as error:
            raise ProfileError(f"{path}: not a model ({str(error).splitlines()[0]:.80})") from None
        if forest.features != columns:
            raise ProfileError(f"{path}: made for {forest.features} features, this version computes "
                               f"{columns}; fit the profile again")  # fmt: skip
        return forest


def confidence(ranges: dict[str, tuple[float, float]], values: dict[str, float]) -> str:
    """ "in_range", "edge" (within a factor of `EDGE` of it) or "outside" for named sizes."""
    flag = "in_range"
    for name, value in values.items():
        low, high = ranges.get(name, (value, value))
        if not low <= value <= high:
            if not low / EDGE <= value <= high * EDGE:
                return "outside"
            flag = "edge"
    return flag
