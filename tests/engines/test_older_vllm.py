"""vLLM versions that were built for an older PyTorch: real wheels, in environments of their own."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks import older_vllm
from tests.engines.conftest import result_of
from tests.engines.test_folding import with_two_ranks

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module", params=["0.10.2", "0.11.0", "0.12.0"])
def python(request: pytest.FixtureRequest) -> Path:
    """The interpreter of an environment with such a version; it is made once and stays in the repository."""
    folder = older_vllm.default_folder(request.param)
    if not (folder / "bin" / "revati").exists():
        older_vllm.make(request.param, folder)
    return folder / "bin" / "python"


def test_two_ranks_serve_all_tokens_and_reduce_in_every_step(
    python: Path, tmp_path: Path, attempt: Callable[..., Any], emulate: Callable[..., Any]
) -> None:
    program = tmp_path / "ranks.py"
    program.write_text(with_two_ranks("tensor_parallel_size"))
    flags = ("--gpus", "2", "--cpu-time", "free")
    done = attempt([program], *flags, "--fold-ranks", python=python)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    found = result_of(done.stdout)
    assert found["platform"] == "VirtualCudaPlatform" and found["tokens"] == [60] * 12
    assert found["virtual_ns"] > 60 * 100_000
    (collectives,) = re.findall(r"collective\s+([\d,]+)", done.stdout + done.stderr)
    # two layers and the embedding are reduced in each of at least 60 steps, captured ones too
    assert int(collectives.replace(",", "")) >= 60 * 5
    separate = emulate([program], *flags, python=python)
    assert separate["tokens"] == found["tokens"]
    assert separate["virtual_ns"] == pytest.approx(found["virtual_ns"], rel=1e-3)
