"""Trained models by family: what a profile folder holds becomes an estimator of a `Work`."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from revati.latency.store import Estimator, Profile


def load(family: str, profile: Profile) -> Estimator | None:
    """The estimator of `family` that `profile` ships, or None."""
    return None
