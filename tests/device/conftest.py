"""The explicit identity for every test of this folder: two virtual H100s, durations from the roofline."""

from __future__ import annotations

import pytest
import torch

import revati


@pytest.fixture(scope="session", autouse=True)
def device() -> torch.device:
    revati.init(gpu="h100_sxm", count=2, latency="roofline")
    return torch.device("revati:0")
