"""The environment that makes a process, and every child of it, live on the virtual GPU.

One function, no side effects beyond files inside the private run directory: `revati run`, `revati bench`,
the accuracy harness and the tests all start their worlds from here. docs/architecture.md lists the variables.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.machinery import PathFinder
from pathlib import Path

import revati
from revati.models.materialise import user_cache
from revati.spec import load_spec

CPU_TIME_MODES = ("charged", "free", "wall")
LATENCY_MODES = ("profile", "roofline")


@dataclass(frozen=True)
class RunOptions:
    """What a user can choose about a run; everything else follows from it."""

    gpu: str
    gpus: int = 1
    cpu_time: str = "charged"
    cpu_factor: float | None = None  # None: this machine against the reference one, measured
    latency: str = "profile"
    strict: bool = False
    trace: Path | None = None
    time_log: Path | None = None
    output_lengths: Path | None = None
    model_config_dirs: tuple[Path, ...] = field(default=())
    fold_ranks: bool = False
    exit_when_stuck: bool = False
    parallel: bool = False
    allow_real_time: bool = False
    grace_s: float | None = None  # None: as long as the clock gives by default


def boot_dir() -> Path:
    """Folder whose `sitecustomize.py` puts the virtual GPU in place before torch is imported."""
    return Path(revati.__file__).resolve().parent / "boot"


def stub_dirs() -> list[Path]:
    """Folders of the libraries that official GPU wheels link against: our stubs, then CUDA's runtime."""
    folders = [Path(revati.__file__).resolve().parent / "native" / "stubs"]
    spec = PathFinder.find_spec("nvidia")
    for location in (spec.submodule_search_locations or []) if spec else []:
        folders += sorted(Path(location).glob("cu*/lib"))
    return folders


def build_environment(
    options: RunOptions, run_dir: Path, base: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Return the environment of a run: `base` (default: this process's) with Revati's variables on top.

    Values that the user already set for the engine (hub access, usage statistics, thread counts, cache
    folders) are kept.
    """
    env = dict(os.environ if base is None else base)
    outer_run_dir = env.get("REVATI_RUN_DIR")
    env.update(
        REVATI_RUN_DIR=str(run_dir),
        REVATI_IDENTITY="cuda",
        REVATI_GPU=options.gpu,
        REVATI_GPUS=str(options.gpus),
        REVATI_LATENCY=options.latency,
        REVATI_CPU_TIME=options.cpu_time,
    )
    _set_or_drop(env, "REVATI_STRICT", "1" if options.strict else None)
    _set_or_drop(env, "REVATI_FOLD_RANKS", "1" if options.fold_ranks else None)
    _set_or_drop(env, "REVATI_TRACE", _absolute(options.trace))
    _set_or_drop(env, "REVATI_OUTPUT_LENGTHS", _absolute(options.output_lengths))
    env["PYTHONPATH"] = _prefixed(env.get("PYTHONPATH"), [boot_dir()])
    env["LD_LIBRARY_PATH"] = _prefixed(env.get("LD_LIBRARY_PATH"), stub_dirs())
    for name, value in _ENGINE_DEFAULTS.items():
        env.setdefault(name, value)
    caches = user_cache(env) / "engines"  # what was tuned on a virtual GPU is not for a real one
    env.setdefault("VLLM_CACHE_ROOT", str(caches / "vllm"))
    env.setdefault("FLASHINFER_WORKSPACE_BASE", str(caches))
    if env.get("VLLM_RPC_BASE_PATH") in (None, outer_run_dir):
        fits = len(str(run_dir)) <= _SOCKET_FOLDER_CHARS
        _set_or_drop(env, "VLLM_RPC_BASE_PATH", str(run_dir) if fits else None)
    # FlashInfer would ask CUDA while it is imported; vLLM could not fork its workers any more
    env.setdefault("FLASHINFER_CUDA_ARCH_LIST", "{}.{}".format(*load_spec(options.gpu).compute_capability))
    for name in _REAL_GPU_VARIABLES:
        env.pop(name, None)
    return env


_ENGINE_DEFAULTS = {
    "HF_HUB_OFFLINE": "1",  # no hub inside a run: an answer would take real time
    "OMP_NUM_THREADS": "1",  # libgomp spins with raw futex calls that the clock cannot see
    "TOKENIZERS_PARALLELISM": "false",
    "HUMMING_DISABLE_PARALLEL_BUILD": "1",  # humming, on import, starts two builds that need the CUDA toolkit
    "VLLM_BLOCKSCALE_FP8_GEMM_FLASHINFER": "0",  # FlashInfer compiles it with nvcc; DeepGEMM's stands for it
    "VLLM_DISABLE_COMPILE_CACHE": "1",  # nothing is generated that could be kept
    "VLLM_ENABLE_CUDAGRAPH_GC": "1",  # a captured graph holds nothing that a collection could take away
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_USE_AOT_COMPILE": "0",
    "VLLM_USE_FLASHINFER_SAMPLER": "0",  # FlashInfer compiles its sampler with nvcc when it first samples
    "VLLM_WORKER_MULTIPROC_METHOD": "fork",  # spawned, each would import everything again
    "DO_NOT_TRACK": "1",
    "TORCH_DISABLE_ADDR2LINE": "1",  # a C++ stack trace would take minutes
}
_SOCKET_FOLDER_CHARS = 107 - len("/12345678-1234-1234-1234-123456789012")
"""What vLLM's names for its sockets leave of the longest path of a Unix socket (unix(7))."""
_REAL_GPU_VARIABLES = ("CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES")


def _prefixed(value: str | None, folders: list[Path]) -> str:
    wanted = [str(folder) for folder in folders]
    kept = [part for part in (value or "").split(os.pathsep) if part and part not in wanted]
    return os.pathsep.join(wanted + kept)


def _absolute(path: Path | None) -> str | None:
    return None if path is None else str(path.resolve())


def _set_or_drop(env: dict[str, str], name: str, value: str | None) -> None:
    if value is None:
        env.pop(name, None)
    else:
        env[name] = value
