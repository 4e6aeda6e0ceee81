"""The environment of a run."""

from __future__ import annotations

import os
from pathlib import Path

from revati.cli.environment import RunOptions, boot_dir, build_environment, stub_dirs


def test_it_carries_every_contract_variable(tmp_path: Path) -> None:
    options = RunOptions(
        gpu="h100_sxm",
        gpus=4,
        latency="roofline",
        cpu_time="free",
        strict=True,
        trace=Path("t.json"),
        output_lengths=Path("l.json"),
    )
    env = build_environment(options, tmp_path, {})
    assert env["REVATI_RUN_DIR"] == str(tmp_path)
    assert env["REVATI_IDENTITY"] == "cuda"
    assert (env["REVATI_GPU"], env["REVATI_GPUS"]) == ("h100_sxm", "4")
    assert env["REVATI_LATENCY"] == "roofline"
    assert env["REVATI_CPU_TIME"] == "free"
    assert env["REVATI_STRICT"] == "1"
    assert Path(env["REVATI_TRACE"]).is_absolute()
    assert Path(env["REVATI_OUTPUT_LENGTHS"]).is_absolute()


def test_paths_are_put_in_front_once(tmp_path: Path) -> None:
    base = {"PYTHONPATH": "/mine", "LD_LIBRARY_PATH": "/libs"}
    once = build_environment(RunOptions("h100_sxm"), tmp_path, base)
    twice = build_environment(RunOptions("h100_sxm"), tmp_path, once)
    assert once["PYTHONPATH"].split(os.pathsep) == [str(boot_dir()), "/mine"]
    assert once["LD_LIBRARY_PATH"].split(os.pathsep) == [*map(str, stub_dirs()), "/libs"]
    assert twice == once


def test_what_the_user_set_for_the_engine_is_kept(tmp_path: Path) -> None:
    env = build_environment(RunOptions("h100_sxm"), tmp_path, {"HF_HUB_OFFLINE": "0", "OMP_NUM_THREADS": "2"})
    assert (env["HF_HUB_OFFLINE"], env["OMP_NUM_THREADS"]) == ("0", "2")
    assert env["VLLM_NO_USAGE_STATS"] == "1"


def test_engines_do_not_write_into_the_caches_of_real_gpus(tmp_path: Path) -> None:
    options = RunOptions("h100_sxm")
    env = build_environment(options, tmp_path, {"HOME": "/home/me"})
    assert env["VLLM_CACHE_ROOT"] == "/home/me/.cache/revati/engines/vllm"
    assert env["FLASHINFER_WORKSPACE_BASE"] == "/home/me/.cache/revati/engines"
    moved = build_environment(options, tmp_path, {"HOME": "/home/me", "XDG_CACHE_HOME": "/var/caches"})
    assert moved["VLLM_CACHE_ROOT"] == "/var/caches/revati/engines/vllm"
    own = build_environment(options, tmp_path, {"VLLM_CACHE_ROOT": "/mine"})
    assert own["VLLM_CACHE_ROOT"] == "/mine"


def test_the_engines_sockets_are_private_to_the_run() -> None:
    options = RunOptions("h100_sxm")
    env = build_environment(options, Path("/dev/shm/revati-a"), {})
    assert env["VLLM_RPC_BASE_PATH"] == "/dev/shm/revati-a"
    inner = build_environment(options, Path("/dev/shm/revati-b"), env)
    assert inner["VLLM_RPC_BASE_PATH"] == "/dev/shm/revati-b"
    own = build_environment(options, Path("/dev/shm/revati-a"), {"VLLM_RPC_BASE_PATH": "/mine"})
    assert own["VLLM_RPC_BASE_PATH"] == "/mine"
    too_long = build_environment(options, Path("/" + "a" * 80), env)
    assert "VLLM_RPC_BASE_PATH" not in too_long


def test_leftovers_of_another_run_do_not_leak_in(tmp_path: Path) -> None:
    base = {"REVATI_TRACE": "/old", "REVATI_STRICT": "1", "CUDA_VISIBLE_DEVICES": "3"}
    env = build_environment(RunOptions("h100_sxm"), tmp_path, base)
    assert not {"REVATI_TRACE", "REVATI_STRICT", "CUDA_VISIBLE_DEVICES"} & env.keys()
