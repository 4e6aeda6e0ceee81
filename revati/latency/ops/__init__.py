"""From records to work: one table a family, one function that asks them in turn."""

from __future__ import annotations

from collections.abc import Callable

from revati.latency.ops import attention, comm, compiled, gemm, memory, moe
from revati.latency.record import ArgView, OpRecord
from revati.latency.work import NOTHING, Work

_EXTRACTORS: dict[str, Callable[[ArgView], Work | None]] = {
    **gemm.EXTRACTORS,
    **attention.EXTRACTORS,
    **moe.EXTRACTORS,
    **comm.EXTRACTORS,
}


def live_args(name: str) -> tuple[str, ...]:
    """Argument names whose live values set the price of op `name`; () for most."""
    return attention.LIVE_ARGS.get(name.partition(".")[0], ())


def unpriced_args(name: str) -> tuple[str, ...]:
    """Argument names of op `name` that differ from call to call and decide neither price nor result."""
    return attention.UNPRICED_ARGS.get(name.partition(".")[0], ())


def extract(record: OpRecord) -> tuple[Work, bool]:
    """(what the op asks of the GPU, whether its kind is known); never raises for a well-formed record."""
    name = record.name.partition(".")[0]
    namespace, _, _base = name.partition("::")
    if name in memory.LAUNCHES_NOTHING or name in memory.HOST_ONLY:
        return NOTHING, True
    view = ArgView(record)
    work: Work | None = None
    extractor = _EXTRACTORS.get(name)
    if extractor is not None:
        work = extractor(view)
    elif namespace == "c10d":
        work = comm.extract_c10d(view)
    elif namespace == "inductor":
        work = compiled.extract_fused(view)
    elif namespace == "copy":
        work = comm.extract_copy(view)
    if work is not None:
        return work, True
    if namespace == "aten" and extractor is None:
        return memory.extract_aten(view), True
    work = memory.extract_custom(view)
    if work is not None:
        return work, True
    if namespace == "triton":
        return memory.extract_unknown(view, "triton"), True
    return memory.extract_unknown(view, "other"), False
