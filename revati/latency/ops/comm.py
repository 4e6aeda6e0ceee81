"""Collectives and copies between host and device."""

from __future__ import annotations

from collections.abc import Callable

from revati.latency.record import ArgView, TensorArg, nbytes
from revati.latency.work import CollectiveShape, Work

_TRAFFIC: dict[str, Callable[[int], float]] = {
    "allreduce": lambda n: 2.0 * (n - 1) / n,
    "allgather": lambda n: (n - 1) / n,
    "reduce_scatter": lambda n: (n - 1) / n,
    "alltoall": lambda n: (n - 1) / n,
    "broadcast": lambda n: 1.0,
    "reduce": lambda n: 1.0,
    "gather": lambda n: 1.0,
    "scatter": lambda n: 1.0,
    "send": lambda n: 1.0,
    "recv": lambda n: 1.0,
    "barrier": lambda n: 0.0,
}
"""Bytes that cross one GPU's link in one direction, over the payload, for a ring of n ranks."""

_ALIASES = {
    "all_reduce": "allreduce", "allreduce_": "allreduce", "allreduce_coalesced": "allreduce",
    "all_gather": "allgather", "allgather_": "allgather", "_allgather_base": "allgather",
    "_allgather_base_": "allgather", "all_gather_into_tensor": "allgather",
    "allgather_into_tensor": "allgather",
    "custom_all_gather": "allgather", "reduce_scatter_tensor": "reduce_scatter",
    "_reduce_scatter_base": "reduce_scatter",
    "_reduce_scatter_base_": "reduce_scatter", "reduce_scatter_": "reduce_scatter", "broadcast_": "broadcast",
    "custom_reduce_scatter": "reduce_scatter", "all_to_all": "alltoall", "alltoall_base": "alltoall",
    "alltoall_base_": "alltoall", "all_to_all_single": "alltoall", "alltoall_": "alltoall", "recv_": "recv",
}  # fmt: skip

CUSTOM_ALLREDUCE = "custom"
NCCL = "nccl"
SYMM_MEM = "symm_mem"


def collective_work(op: str, payload_bytes: float, world_size: int, dtype: str, implementation: str) -> Work:
    """Work of one collective on one rank. payload: the full vector (gathered side of a gather)."""
    factor = _TRAFFIC.get(op, _TRAFFIC["allreduce"])(max(1, world_size)) if world_size > 1 else 0.0
    return Work(
        family="collective",
        read_bytes=payload_bytes * factor,
        kernels=1.0 if op != "barrier" else 0.0,
        shape=CollectiveShape(op, payload_bytes, world_size, dtype, implementation),
    )


def extract_c10d(view: ArgView) -> Work | None:
    """c10d::<op>(tensor, world_size, reduce_op): tensor is the rank's own input."""
    op = view.record.name.partition("::")[2].partition(".")[0]
    op = _ALIASES.get(op, op)
    tensor = view.tensor("tensor", "input", "tensors") or next((t for _, t in view.tensors()), None)
    world = view.get("world_size", default=1)
    size = nbytes(tensor) if isinstance(tensor, TensorArg) else 0.0
    if op == "allgather":
        size *= max(1, int(world))
    dtype = tensor.dtype if isinstance(tensor, TensorArg) else "bfloat16"
    implementation = view.get("implementation", default=NCCL)
    return collective_work(op, size, int(world), dtype, str(implementation))


def _custom(op: str, side: str) -> Callable[[ArgView], Work | None]:
    """vLLM's custom collectives over NVLink peers; the world size is not among their arguments."""

    def extract(view: ArgView) -> Work | None:
        small, large = view.tensor("inp"), view.tensor("out")
        if small is None or large is None:
            return None
        world = view.get("world_size")
        if not isinstance(world, int):
            world = max(
                1, round(max(nbytes(small), nbytes(large)) / max(1.0, min(nbytes(small), nbytes(large))))
            )
            world = world if world > 1 else 2
        payload = max(nbytes(small), nbytes(large))
        return collective_work(op, payload, world, small.dtype, CUSTOM_ALLREDUCE)

    return extract


def extract_copy(view: ArgView) -> Work | None:
    """copy::h2d, d2h, d2d: the bytes of the destination (or of whatever tensor is given)."""
    direction = view.record.name.partition("::")[2]
    size = max((nbytes(t) for _, t in view.tensors()), default=view.output_bytes())
    if direction == "d2d":
        return Work(family="copy_d2d", read_bytes=size, write_bytes=size)
    return Work(family=f"copy_{direction}", read_bytes=size)


EXTRACTORS: dict[str, Callable[[ArgView], Work | None]] = {
    "_C_custom_ar::all_reduce": _custom("allreduce", "inp"),
    "_C_custom_ar::custom_all_gather": _custom("allgather", "out"),
    "_C_custom_ar::custom_reduce_scatter": _custom("reduce_scatter", "inp"),
}
