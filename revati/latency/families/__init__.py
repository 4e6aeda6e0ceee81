"""Trained models by family: what a profile folder holds becomes an estimator of a `Work`."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from revati.latency.store import Estimator, Profile


def load(family: str, profile: Profile) -> Estimator | None:
    """The estimator of `family` ("gemm", "attention", "moe", "collective") that `profile` ships, or None."""
    models = {
        name: entry
        for name, entry in profile.provenance.get("models", {}).items()
        if entry["family"] == family
    }
    if not models:
        return None
    if family == "gemm":
        from revati.latency.families.gemm import GemmEstimator

        return GemmEstimator(profile, models)
    if family == "attention":
        from revati.latency.families.attention import AttentionEstimator

        return AttentionEstimator(profile, models)
    if family == "moe":
        from revati.latency.families.moe import MoeEstimator

        return MoeEstimator(profile, models)
    if family == "collective":
        from revati.latency.families.collective import CollectiveEstimator

        return CollectiveEstimator(profile, models)
    return None
