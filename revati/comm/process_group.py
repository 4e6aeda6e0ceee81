"""Makes torch.distributed find NCCL where there is a virtual GPU.

`ProcessGroupNCCL` of the cuda identity and the backend `revati` of the explicit one: both
are the C++ class of csrc/comm/backend.h.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

NCCL_VERSION = (2, 28, 9)
_state: dict[str, Any] = {}


def _class() -> Any:
    """The Python class over the C++ backend, with the signature of torch's ProcessGroupNCCL; made once."""
    if "class" in _state:
        return _state["class"]
    from revati import _C
    from revati.comm import world

    _C.bind_process_group()
    native = _C.ProcessGroupNCCL

    class ProcessGroupNCCL(native):  # type: ignore[misc, valid-type]
        """What NCCL's process group is on real GPUs."""

        Options = native.Options

        def __init__(self, store: Any, rank: int, size: int, options: Any = None, **kwargs: Any) -> None:
            if not isinstance(options, native.Options):
                timeout, options = options, native.Options()
                if isinstance(timeout, timedelta):
                    options._timeout = timeout
            super().__init__(store, rank, size, options, world.world_path(), world.buffer_bytes())

        @staticmethod
        def get_build_nccl_version() -> tuple[int, int, int]:
            return NCCL_VERSION

        @staticmethod
        def get_runtime_nccl_version() -> tuple[int, int, int]:
            return NCCL_VERSION

    _state["class"] = ProcessGroupNCCL
    return ProcessGroupNCCL


def install_nccl() -> None:
    """Give torch's bindings a ProcessGroupNCCL; runs when `distributed_c10d` is about to look for it."""
    import torch

    bindings: Any = torch._C._distributed_c10d  # type: ignore[attr-defined]
    bindings.ProcessGroupNCCL = _class()
    bindings._DEFAULT_PG_NCCL_TIMEOUT = timedelta(minutes=10)


def register_backend(name: str = "revati") -> None:
    """Register the backend for the explicit identity: `init_process_group("revati")`."""
    import torch.distributed as dist

    if not dist.is_available() or name.upper() in dist.Backend._plugins:
        return

    def create(store: Any, rank: int, size: int, timeout: timedelta) -> Any:
        return _class()(store, rank, size, timeout)

    dist.Backend.register_backend(name, create, devices=["revati"])
