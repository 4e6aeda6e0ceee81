"""Where the ranks of this run meet, and what a communicator costs in device memory."""

from __future__ import annotations

import atexit
import contextlib
import os
import tempfile
from typing import Any

ENV = "REVATI_WORLD"  # set by the first process of a job outside `revati run`, for its children


def world_path() -> str:
    """File that the ranks share: in the run directory, or a temporary one that all children inherit."""
    folder = os.environ.get("REVATI_RUN_DIR")
    if folder and os.path.isdir(folder):
        return os.path.join(folder, "collectives")
    if path := os.environ.get(ENV):
        return path
    handle, path = tempfile.mkstemp(prefix="revati-collectives-")
    os.close(handle)
    os.environ[ENV] = path
    atexit.register(_remove, path, os.getpid())
    return path


def _remove(path: str, owner: int) -> None:
    if os.getpid() == owner:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)


def buffer_bytes() -> int:
    """Device memory that NCCL takes for one communicator on this run's GPU."""
    from revati.spec import load_spec

    return load_spec(os.environ.get("REVATI_GPU", "h100_sxm")).outside_torch.nccl_bytes_per_rank


def new_communicator(name: str, rank: int, size: int, outside_bytes: int = 0) -> Any:
    """A `_C.Communicator`: all ranks that give the same `name` form the group. Never blocks."""
    from revati import _C

    if not _C.world_path():
        _C.open_world(world_path())
    return _C.Communicator(name, rank, size, outside_bytes)
