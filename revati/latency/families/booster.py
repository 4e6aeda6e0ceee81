"""One trained XGBoost model on disk and in memory."""

from __future__ import annotations

import gzip
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from revati.latency.store import Profile

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
        self._model: Any = None

    def predict(self, matrix: NDArray[np.float64]) -> NDArray[np.float32]:
        """Raw model output for feature rows; raises ProfileError for a broken file."""
        if self._model is None:
            self._load(matrix.shape[1])
        out: NDArray[np.float32] = self._model.inplace_predict(matrix)
        return out

    def _load(self, columns: int) -> None:
        from revati.latency.store import ProfileError

        path = self._profile.model_path(self.entry["file"])
        if path is None:
            raise ProfileError(
                f"{self._profile.folder}: model {self.entry['file']} is listed but not shipped"
            )
        import xgboost

        model = xgboost.Booster({"nthread": 1})
        try:
            model.load_model(bytearray(gzip.decompress(path.read_bytes())))
        except (OSError, EOFError, ValueError, xgboost.core.XGBoostError) as error:
            raise ProfileError(f"{path}: not a model ({str(error).splitlines()[0]:.80})") from None
        if model.num_features() != columns:
            raise ProfileError(f"{path}: made for {model.num_features()} features, this version computes "
                               f"{columns}; fit the profile again")  # fmt: skip
        self._model = model


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
