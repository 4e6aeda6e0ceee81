"""Folded ranks: one worker process stands for all tensor-parallel ranks of an engine.

Tensor-parallel ranks do the same work at the same time on shards of the same size, so one of them tells
what all would. `revati run --fold-ranks` sets REVATI_FOLD_RANKS; the engine then starts rank 0 alone, its
collectives are priced for the full world and complete as if every rank had arrived with it, and its CPU
process groups mirror its own contribution. Pipeline and data parallel ranks do different work and cannot
be folded.
"""

from __future__ import annotations

import os
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

from revati.cuda import ledger

ENV = "REVATI_FOLD_RANKS"
_WHY = "one process stands for all ranks (--fold-ranks)"
_UNTIL = "never: it is an option of Revati"


def enabled() -> bool:
    """Whether this run folds ranks."""
    return os.environ.get(ENV, "0") not in ("", "0")


def choose_executor(parallel_config: Any) -> None:
    """Make vLLM start the folded executor; refuses what cannot be folded.

    Raises:
        ValueError: pipeline, data or prefill-context parallelism, or an executor that the user chose himself.
    """
    for name in ("pipeline_parallel_size", "data_parallel_size", "prefill_context_parallel_size"):
        if getattr(parallel_config, name, 1) != 1:
            raise ValueError(
                f"--fold-ranks folds tensor-parallel ranks only, and {name} is "
                f"{getattr(parallel_config, name)}; run without it"
            )
    if parallel_config.world_size == 1:
        return
    backend = parallel_config.distributed_executor_backend
    if isinstance(backend, type) and backend.__name__ == "FoldedExecutor":
        return
    if backend not in (None, "mp"):
        raise ValueError(f"--fold-ranks needs vLLM's multiprocessing executor, not {backend!r}")
    parallel_config.distributed_executor_backend = _executor()


def _executor() -> type[Any]:
    from revati.engines.vllm.folded_executor import FoldedExecutor

    return FoldedExecutor


def patch_torch(module: ModuleType) -> None:
    """`torch.distributed.distributed_c10d`: groups whose other ranks are not there."""
    from revati import _C

    class ProcessGroupGloo(_C.MirrorBackend):  # type: ignore[misc, name-defined]
        """Gloo's process group, of which only this rank is there."""

        def __init__(self, store: Any, rank: int, size: int, timeout: Any = None) -> None:
            super().__init__(rank, size)
            self.options = SimpleNamespace()  # torch notes the group's name and ranks there

    ledger.replace(module, "ProcessGroupGloo", ProcessGroupGloo, why=_WHY, until=_UNTIL)

    def nothing(*args: Any, **kwargs: Any) -> None:
        """Nobody waits for this rank, and nobody sends it objects: it keeps what it has."""

    ledger.replace(module, "_store_based_barrier", nothing, why=_WHY, until=_UNTIL)
    for owner in (module, sys.modules.get("torch.distributed")):
        if owner is not None:
            ledger.replace(owner, "broadcast_object_list", nothing, why=_WHY, until=_UNTIL)


def patch_rendezvous(module: ModuleType) -> None:
    """`torch.distributed.rendezvous`: the store of a world (vLLM before 0.13) is ready with one rank."""
    usual = module.TCPStore

    def store(*args: Any, **kwargs: Any) -> Any:
        return usual(*args, **{**kwargs, "wait_for_workers": False})

    ledger.replace(module, "TCPStore", store, why=_WHY, until=_UNTIL)


class MirrorQueue:
    """Stands for the shared-memory ring by which rank 0 tells the others what it decided."""

    def broadcast_object(self, obj: Any) -> Any:
        """What rank 0 sent is what this process has."""
        return obj

    def wait_until_ready(self) -> None:
        """Nobody else has to come."""


def patch_parallel_state(module: ModuleType) -> None:
    """`vllm.distributed.parallel_state`: the ranks that are not there live on the same node."""

    def same_node(pg: Any, source_rank: int = 0) -> list[bool]:
        size = pg.size() if hasattr(pg, "size") else pg.world_size
        return [True] * int(size)

    ledger.replace(module, "in_the_same_node_as", same_node, why=_WHY, until=_UNTIL)


def patch_ring(module: ModuleType) -> None:
    """`vllm.distributed.device_communicators.shm_broadcast`: the ring inside a group has no readers."""

    def create(*args: Any, **kwargs: Any) -> MirrorQueue:
        return MirrorQueue()

    queue = module.MessageQueue
    ledger.replace(queue, "create_from_process_group", staticmethod(create), why=_WHY, until=_UNTIL)


PATCHES = {
    "torch.distributed.distributed_c10d": patch_torch,
    "torch.distributed.rendezvous": patch_rendezvous,
    "vllm.distributed.parallel_state": patch_parallel_state,
}
