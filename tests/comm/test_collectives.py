"""Two and eight processes do every collective on virtual GPUs; a killed rank is noticed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from revati.cli.environment import RunOptions, build_environment

RANKS = Path(__file__).with_name("ranks.py")


def run(case: str, size: int, folder: Path, identity: str = "cuda") -> list[subprocess.CompletedProcess[str]]:
    """Run `case` in `size` processes; returns them by rank."""
    env = build_environment(RunOptions(gpu="h100_sxm", gpus=size), folder)
    if identity == "revati":
        env.pop("REVATI_IDENTITY")
    processes = [
        subprocess.Popen(
            [sys.executable, str(RANKS), case, str(rank), str(size), str(folder / "store")],
            env=env,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for rank in range(size)
    ]
    done = []
    for process in processes:
        out, err = process.communicate(timeout=240)
        done.append(subprocess.CompletedProcess(process.args, process.returncode, out, err))
    return done


def check(done: list[subprocess.CompletedProcess[str]]) -> None:
    for rank, process in enumerate(done):
        assert process.returncode == 0 and f"rank {rank} ok" in process.stdout, process.stderr[-3000:]


@pytest.mark.parametrize("case", ["values", "phantom", "asynchronous", "late", "graphs"])
def test_two_ranks(case: str, tmp_path: Path) -> None:
    check(run(case, 2, tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("case", ["values", "asynchronous"])
def test_eight_ranks(case: str, tmp_path: Path) -> None:
    check(run(case, 8, tmp_path))


@pytest.mark.parametrize("case", ["values"])
def test_the_explicit_identity(case: str, tmp_path: Path) -> None:
    check(run(case, 2, tmp_path, identity="revati"))


@pytest.mark.parametrize("size", [2, pytest.param(8, marks=pytest.mark.slow)])
def test_a_killed_rank_is_named(size: int, tmp_path: Path) -> None:
    done = run("death", size, tmp_path)
    check(done[:-1])
    assert done[-1].returncode == -9
    assert all("noticed" in process.stdout for process in done[:-1])


def test_ranks_of_two_jobs_do_not_meet(tmp_path: Path) -> None:
    check(run("phantom", 2, tmp_path))
    (tmp_path / "store").unlink(missing_ok=True)  # the store itself removes it when its last user ends
    check(run("phantom", 2, tmp_path))
    assert os.path.getsize(tmp_path / "collectives") > 0
