"""Profiles on disk: `profiles/<gpu>/` with spec.yaml, provenance.json, bandwidth.json and models/*.

A profile is read once per process; files are checked against the hashes that provenance.json keeps, so that a
truncated or foreign model is one clear error and not a wrong number.
"""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

from revati.latency.bandwidth import BandwidthModel, bandwidth_from_json
from revati.latency.roofline import roofline_estimate_ns
from revati.latency.work import Work
from revati.spec import GpuSpec, list_gpus, load_spec, profiles_dir

PROVENANCE_FILE = "provenance.json"
BANDWIDTH_FILE = "bandwidth.json"
MODELS_DIR = "models"
SHAPED_FAMILIES = ("gemm", "attention", "moe", "collective")


class ProfileError(ValueError):
    """A profile whose files are missing, truncated, changed or of another version."""


class Estimator(Protocol):
    """A loaded family model."""

    def estimate(self, work: Work) -> tuple[float, str] | None:
        """(ns, confidence), or None if the model does not cover this work."""
        ...


class StandIn:
    """Prices by another card's model: its time over its roofline is taken for this card's."""

    def __init__(self, spec: GpuSpec, other: Profile) -> None:
        self.spec = spec
        self.other = other

    def estimate(self, work: Work) -> tuple[float, str] | None:
        """(ns, "outside"), or None where the other card has no model of this work."""
        found = self.other.estimate(work)
        if found is None:
            return None
        over_roofline = found[0] / roofline_estimate_ns(work, self.other.spec)
        return over_roofline * roofline_estimate_ns(work, self.spec), "outside"


class Profile:
    """Everything known about one GPU: `spec`, `bandwidth` models by family, and shape models by family."""

    def __init__(self, spec: GpuSpec, folder: Path) -> None:
        self.spec = spec
        self.folder = folder
        self.provenance = _read_json(folder / PROVENANCE_FILE) if (folder / PROVENANCE_FILE).exists() else {}
        self.bandwidth: dict[str, BandwidthModel] = {}
        if (folder / BANDWIDTH_FILE).exists():
            raw = _read_json(self._checked(BANDWIDTH_FILE))
            try:
                self.bandwidth = {family: bandwidth_from_json(entry) for family, entry in raw.items()}
            except (KeyError, TypeError) as error:
                raise ProfileError(f"{folder / BANDWIDTH_FILE}: {error}; fit the profile again") from None
        self._estimators: dict[str, Estimator | None] = {}

    def _checked(self, name: str) -> Path:
        """Path of a profile file whose content is as provenance.json says."""
        path = self.folder / name
        expected = self.provenance.get("files", {}).get(name)
        if not path.is_file():
            raise ProfileError(
                f"{path}: missing, though {PROVENANCE_FILE} lists it; fit or reinstall the profile"
            )
        if expected is not None and sha256_file(path) != expected:
            raise ProfileError(f"{path}: not the file that {PROVENANCE_FILE} lists (corrupt or truncated); "
                               f"run `revati profile fit {self.spec.id}` or reinstall")  # fmt: skip
        return path

    def estimate(self, work: Work) -> tuple[float, str] | None:
        """Time of a shaped op by the family's model: (ns, confidence), or None where there is no model."""
        family = work.family
        if family not in self._estimators:
            from revati.latency import families

            self._estimators[family] = families.load(family, self) or self._stand_in(family)
        estimator = self._estimators[family]
        return None if estimator is None else estimator.estimate(work)

    def _stand_in(self, family: str) -> Estimator | None:
        other = self.spec.stand_ins.get(family)  # type: ignore[call-overload]
        if other not in list_gpus() or family in load_profile(other).families_missing():
            return None
        return StandIn(self.spec, load_profile(other))

    def check_files(self) -> None:
        """Raise ProfileError for the first file that is missing or not as provenance.json lists it."""
        for name in self.provenance.get("files", {}):
            self._checked(name)

    def families_missing(self) -> list[str]:
        """Shaped families that this profile has no model of."""
        covered = {entry["family"] for entry in self.provenance.get("models", {}).values()}
        return [family for family in SHAPED_FAMILIES if family not in covered]

    def model_path(self, name: str) -> Path | None:
        """Checked path of `models/<name>`, None if the profile has no such model."""
        key = f"{MODELS_DIR}/{name}"
        if key not in self.provenance.get("files", {}):
            return None
        return self._checked(key)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        raw = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ProfileError(f"{path}: not readable as JSON ({error}); fit or reinstall the profile") from None
    if not isinstance(raw, dict):
        raise ProfileError(f"{path}: expected an object, found {type(raw).__name__}")
    return raw


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's content, hex."""
    digest = hashlib.sha256()
    with path.open("rb") as handle:
        while chunk := handle.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


@lru_cache(maxsize=16)
def _load(gpu: str, folder: Path) -> Profile:
    return Profile(load_spec(gpu), folder)


def load_profile(gpu: str) -> Profile:
    """The profile of `gpu`, read once per process. Raises UnknownGpuError, SpecError, ProfileError."""
    load_spec(gpu)
    return _load(gpu, profiles_dir() / gpu)
