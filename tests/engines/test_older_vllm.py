"""vLLM versions that were built for an older PyTorch: real wheels, in environments of their own."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from benchmarks import older_vllm
from tests.engines.test_folding import with_two_ranks

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module", params=["0.10.2", "0.11.0", "0.12.0"])
def python(request: pytest.FixtureRequest) -> Path:
    """The interpreter of an environment with such a version; it is made once and stays in the repository."""
    folder = older_vllm.default_folder(request.param)
    if not (folder / "bin" / "revati").exists():
        older_vllm.make(request.param, folder)
    return folder / "bin" / "python"


def run(python: Path, program: Path, *flags: str) -> str:
    line = [python, "-m", "revati.cli.main", "run", "--gpu", "h100_sxm", *flags, "--", python, program]
    done = subprocess.run([*map(str, line)], capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout + done.stderr


def result(output: str) -> dict[str, object]:
    (found,) = [line for line in output.splitlines() if line.startswith("RESULT ")]
    return dict(json.loads(found.removeprefix("RESULT ")))


def test_two_ranks_serve_all_tokens_and_reduce_in_every_step(python: Path, tmp_path: Path) -> None:
    program = tmp_path / "ranks.py"
    program.write_text(with_two_ranks("tensor_parallel_size"))
    output = run(python, program, "--gpus", "2", "--cpu-time", "free", "--fold-ranks")
    found = result(output)
    assert found["platform"] == "VirtualCudaPlatform" and found["tokens"] == [60] * 12
    assert int(str(found["virtual_ns"])) > 60 * 100_000
    (collectives,) = re.findall(r"collective\s+([\d,]+)", output)
    # two layers and the embedding are reduced in each of at least 60 steps, captured ones too
    assert int(collectives.replace(",", "")) >= 60 * 5
    separate = result(run(python, program, "--gpus", "2", "--cpu-time", "free"))
    assert separate["tokens"] == found["tokens"]
    assert separate["virtual_ns"] == pytest.approx(found["virtual_ns"], rel=1e-3)
