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
NOT_LAUNCHED = {"_C::weak_ref_tensor"}  # a second tensor over the same memory: revati/engines/vllm/fakes.py


def run(folder: Path, given: str = "", **environment: str | None) -> Any:
    # Not the trained models: XGBoost's own library looks for a CUDA driver when it is loaded.
    env = build_environment(RunOptions(gpu="h100_sxm", latency="roofline"), folder)
    for name, value in environment.items():
        if value is None:
            env.pop(name, None)
    done = subprocess.run(
        [sys.executable, str(PROGRAM)], env=env, input=given, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def registered(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """The device ops of each library, from a process without a virtual GPU."""
    found: dict[str, list[str]] = run(tmp_path_factory.mktemp("plain"), REVATI_IDENTITY=None)
    return found


@pytest.fixture(scope="module")
def report(registered: dict[str, list[str]], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    ops = [op for library in registered.values() for op in library]
    result: dict[str, Any] = run(tmp_path_factory.mktemp("cuda"), json.dumps(ops))
    return result


def test_every_library_loads_and_registers_its_ops(registered: dict[str, list[str]]) -> None:
    assert {name: len(ops) for name, ops in registered.items()} == LIBRARIES


def test_every_op_is_taken_over(registered: dict[str, list[str]], report: dict[str, Any]) -> None:
    assert set(report["ours"]) | NOT_LAUNCHED == {op for ops in registered.values() for op in ops}


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
