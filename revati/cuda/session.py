"""What a process of a run does once torch is imported: connect the latency layer, and report when it ends."""

from __future__ import annotations

import atexit
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

_begun = False
_MATMULS = ("aten::mm", "aten::addmm", "aten::bmm", "aten::_scaled_mm")


def begin() -> None:
    """Connect this process's backend to the latency layer and arrange the reports. Idempotent."""
    global _begun
    if _begun:
        return
    _begun = True
    from revati import _C
    from revati.cuda import compile_fallback, libraries, printing, unique_ids

    printing.install()
    unique_ids.install()
    compile_fallback.install()
    libraries.watch_load_library()
    connect_latency(
        os.environ.get("REVATI_GPU", "h100_sxm"),
        os.environ.get("REVATI_LATENCY", "profile"),
        os.environ.get("REVATI_STRICT") == "1",
    )
    _C.trace(bool(os.environ.get("REVATI_TRACE")))
    if token := os.environ.get("REVATI_TOKEN_ID"):
        _C.set_token_id(_number(token))
    if os.environ.get("REVATI_RUN_DIR"):
        atexit.register(write_reports)
        from multiprocessing import util

        _report_at_exit(write_reports)
        util.register_after_fork(write_reports, _report_at_exit)


def _number(token: str) -> int:
    from revati.cuda import refusal

    if not token.isdecimal():
        text = f"REVATI_TOKEN_ID={token}: expected a token's number, 0 or more; or unset it"
        refusal.note(text)
        raise ValueError(text)
    return int(token)


def _report_at_exit(report: Callable[[], None]) -> None:
    """Children of multiprocessing end without `atexit`, and forget the finalizers of their parent."""
    from multiprocessing import util

    util.Finalize(None, report, exitpriority=100)


def connect_latency(gpu: str, mode: str, strict: bool) -> None:
    """Let the backend ask `revati.latency` for durations; the predictor is built at the first question."""
    from revati import _C
    from revati.cuda import refusal
    from revati.latency.predictor import StrictError
    from revati.latency.record import OpRecord, TensorArg

    state: dict[str, object] = {}

    def predictor():  # type: ignore[no-untyped-def]
        if "it" not in state:
            from revati.latency import Predictor

            state["it"] = Predictor(gpu, mode=mode, strict=strict)
        return state["it"]

    def predict(record: OpRecord):  # type: ignore[no-untyped-def]
        if (
            "blas" not in state and record.name in _MATMULS
        ):  # cuBLAS takes its workspaces with the first matmul
            from revati.spec import load_spec

            state["blas"] = True
            _C.memory_outside(_C.current_device(), load_spec(gpu).outside_torch.cublas_workspace_bytes)
        try:
            return predictor().predict(record)
        except StrictError as error:
            refusal.note(f"--strict: {error}")
            raise

    def arg_roles(name: str) -> tuple[list[str], list[str]]:
        return list(predictor().live_args(name)), list(predictor().unpriced_args(name))

    def op_record(name: str, args: tuple, outputs: tuple, arg_names: tuple) -> OpRecord:
        return OpRecord(name=name, args=args, outputs=outputs, arg_names=arg_names)

    _C.set_latency(predict, arg_roles, TensorArg, op_record)


def write_reports() -> None:
    """Write `$REVATI_RUN_DIR/ops-<pid>.json` and the trace of this process, if it launched anything."""
    from revati import _C

    folder = os.environ.get("REVATI_RUN_DIR")
    if not folder or not Path(folder).is_dir() or not _C.launches():
        return
    ops: dict[tuple[str, str, str], list[int]] = {}
    for name, family, confidence, _shapes, count, total_ns in _C.op_stats():
        entry = ops.setdefault((name, family, confidence), [0, 0])
        entry[0] += count
        entry[1] += total_ns
    report = {
        "pid": os.getpid(),
        "process": " ".join(sys.argv[:2])[:200],
        "rank": _rank(),
        "gpu": os.environ.get("REVATI_GPU"),
        "device_busy_ns": _C.busy_ns(),
        "cache": _C.cache_counters(),
        "ops": [
            {"name": n, "family": f, "confidence": c, "count": count, "total_ns": total}
            for (n, f, c), (count, total) in sorted(ops.items(), key=lambda item: -item[1][1])
        ],
    }
    target = Path(folder) / f"ops-{os.getpid()}.json"
    partial = target.with_suffix(".partial")
    partial.write_text(json.dumps(report))
    partial.rename(target)
    if os.environ.get("REVATI_TRACE"):
        from revati.cuda.trace import write_rows

        write_rows(Path(folder) / f"trace-{os.getpid()}.json", _rank())


def _rank() -> int | None:
    import torch

    dist = torch.distributed
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank()
    return None
