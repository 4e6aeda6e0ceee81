"""Every op of PyTorch's op database behaves on the virtual GPU as on the CPU, but for the listed ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.device import opdb

KNOWN: dict[str, str] = json.loads((Path(__file__).parent / "op_db_known.json").read_text())
KNOWN_SLOW: dict[str, str] = json.loads((Path(__file__).parent / "op_db_known_slow.json").read_text())
OPS = opdb.ops()
DOCS = Path(__file__).parents[2] / "docs" / "device.md"


def check(name: str, limit: int | None, known: dict[str, str]) -> None:
    ran, wrong = opdb.judge(OPS[name], limit)
    if not ran:
        pytest.skip("no sample of these dtypes works on the CPU")
    if name in known:
        assert wrong, f"{name} works now: take it off the list ({known[name]})"
    else:
        assert not wrong, "\n".join(wrong[:5])


@pytest.mark.parametrize("name", sorted(OPS))
def test_op(name: str) -> None:
    torch.set_num_threads(1)
    check(name, 5, KNOWN)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(OPS))
def test_op_all_samples(name: str) -> None:
    torch.set_num_threads(1)
    check(name, 1000, KNOWN_SLOW)


def test_known_failures_are_few_and_documented() -> None:
    text = DOCS.read_text()
    for known in (KNOWN, KNOWN_SLOW):
        assert set(known) <= set(OPS)
        assert len(known) <= 0.03 * len(OPS)
        assert [name for name in known if f"`{name}`" not in text] == []
