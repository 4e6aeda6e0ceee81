"""All CUDA kernel libraries of vLLM: they load, their ops are the virtual GPU's, no driver is asked."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from revati.cli.environment import RunOptions, build_environment

pytest.importorskip("vllm", reason="kernel libraries of vLLM's wheel")
PROGRAM = Path(__file__).with_name("programs") / "kernel_libraries.py"
LIBRARIES = {  # of vllm 0.32.0: ops with a device kernel
    "_C_stable_libtorch.abi3.so": 124,
    "_deepselect_C.abi3.so": 1,
    "_flashkda_C.abi3.so": 1,
    "_flashmla_C.abi3.so": 8,
    "_flashmla_extension_C.abi3.so": 2,
    "_moe_C_stable_libtorch.abi3.so": 15,
    "_qutlass_C.abi3.so": 9,
    "cumem_allocator.abi3.so": 0,
    "fs_io_C.abi3.so": 0,
    "spinloop.abi3.so": 0,
    "_C_extension.abi3.so": 50,  # DeepGEMM
    "_vllm_fa2_C.abi3.so": 4,
    "_vllm_fa3_C.abi3.so": 2,
}


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    env = build_environment(RunOptions(gpu="h100_sxm"), tmp_path_factory.mktemp("run"))
    done = subprocess.run(
        [sys.executable, str(PROGRAM)], env=env, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def test_every_library_loads_and_registers_its_ops(report: dict[str, Any]) -> None:
    assert {name: len(library["on_device"]) for name, library in report["libraries"].items()} == LIBRARIES


def test_every_op_is_taken_over(report: dict[str, Any]) -> None:
    on_device = {op for library in report["libraries"].values() for op in library["on_device"]}
    assert set(report["ours"]) == on_device
    assert set(report["taken"]) >= on_device


def test_ops_without_results_are_one_launch_each(report: dict[str, Any]) -> None:
    counted = {op: n for op, n in report["launches"].items() if n is not None}
    assert len(counted) > 100
    assert {op: n for op, n in counted.items() if n != 1} == {}


def test_nothing_calls_into_a_driver(report: dict[str, Any]) -> None:
    for moment in ("loading", "calls"):
        assert set(report["stub_calls"][moment].values()) == {0}, moment


def test_questions_about_the_device_are_answered_from_the_spec(report: dict[str, Any]) -> None:
    for answer, expected in report["answers"].values():
        assert answer == expected
