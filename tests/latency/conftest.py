"""A profile for every test of this folder."""

from __future__ import annotations

import pytest

from revati.latency import Predictor


@pytest.fixture(scope="session")
def h100() -> Predictor:
    return Predictor("h100_sxm")
