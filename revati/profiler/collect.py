"""Measure ops on the GPU of this machine: warm and cold L2, repeats, percentiles, resumable.

Input: op shapes to time, as JSON lines (`{"family": "gemm", "kind": "bf16", "m": 64, "n": 4096, ...}`), or
`shapes_for_model`, which enumerates what a model launches. Output: rows of `profiler.measure`, appended to a
journal after every op, so that an interrupted run goes on where it stopped.

Timing is behind `Timer`, so that the whole path runs without a GPU in tests.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from revati.profiler.measure import MeasurementError

if TYPE_CHECKING:
    import pandas as pd

REPEATS = 20
TOKENS = (1, 2, 4, 8, 16, 32, 48, 64, 96, 128, 160, 192, 256, 384, 512, 768, 1024, 1536, 2048, 4096, 8192)
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
KEYS = (16, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)
CHUNKS = (16, 64, 128, 256, 512, 1024, 2048, 4096, 8192)
SHAPE_COLUMNS = {
    "gemm": ("kind", "m", "n", "k"),
    "attention": (
        "heads", "kv_heads", "head_dim", "kv_kind", "prefill_seqs", "prefill_q", "prefill_context",
        "decode_seqs",
        "decode_kv",
    ),
    "norm": ("tokens", "hidden"), "activation": ("tokens", "hidden"), "rope": ("tokens", "hidden"),
    "embedding": ("tokens", "hidden"), "elementwise": ("tokens", "hidden"),
}  # fmt: skip
"""What a shape of each family must say; `hidden`: elements of one row of the input."""
TRAFFIC = {"norm": (4, 4), "activation": (2, 1), "rope": (2, 2), "embedding": (2, 2), "elementwise": (2, 2)}
"""Bytes read and written for each element of `hidden` and each token."""

Shape = dict[str, Any]


class Timer(Protocol):
    """Times one op: seconds of nothing, nanoseconds of everything."""

    gpu_name: str

    def prepare(self, shape: Shape) -> Callable[[], None]:
        """Allocate the op's tensors; the result launches it once. Raises MeasurementError if it cannot."""
        ...

    def graph_ns(self, launch: Callable[[], None], repeats: int, cold: bool) -> list[float]:
        """Per-call times of `launch` inside a replayed graph; `cold`: L2 is flushed before each call."""
        ...

    def host_launch_ns(self, launch: Callable[[], None]) -> float:
        """Host time of one eager launch."""
        ...


@dataclass(frozen=True)
class Progress:
    """How far a collection is; `left_s` is the estimate of the time that remains."""

    done: int
    total: int
    left_s: float
    name: str


def read_shapes(path: Path) -> list[Shape]:
    """Shapes of a JSON-lines file. Raises MeasurementError naming the line that is wrong."""
    shapes = []
    try:
        lines = path.read_text().splitlines()
    except OSError as error:
        raise MeasurementError(f"{path}: {error.strerror}") from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            shape = json.loads(line)
            check_shape(shape)
        except (ValueError, TypeError) as error:
            raise MeasurementError(f"{path}, line {number}: {error}") from None
        shapes.append(shape)
    if not shapes:
        raise MeasurementError(f"{path}: no shapes; one JSON object a line is expected")
    return shapes


def check_shape(shape: Shape) -> None:
    """Raise MeasurementError for a shape without a known family or without that family's sizes."""
    if not isinstance(shape, dict) or shape.get("family") not in SHAPE_COLUMNS:
        raise MeasurementError(f"family must be one of {', '.join(SHAPE_COLUMNS)}")
    for name in SHAPE_COLUMNS[shape["family"]]:
        value = shape.get(name)
        if name in ("kind", "kv_kind"):
            if not isinstance(value, str):
                raise MeasurementError(f'{name} is missing, such as "bf16"')
        elif not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise MeasurementError(f"{name} must be a whole number, found {value!r}")


def shapes_for_model(config: dict[str, Any], tensor_parallel: tuple[int, ...]) -> Iterator[Shape]:
    """What a dense decoder with this `config.json` launches on one rank, over token counts and lengths.

    Raises MeasurementError for a config without the usual fields or sizes that do not divide.
    """
    try:
        hidden, inter = int(config["hidden_size"]), int(config["intermediate_size"])
        heads, layers_vocab = int(config["num_attention_heads"]), int(config["vocab_size"])
        kv_heads = int(config.get("num_key_value_heads") or heads)
        dim = int(config.get("head_dim") or hidden // heads)
    except (KeyError, TypeError, ValueError) as error:
        raise MeasurementError(f"model config: field {error} is missing or no number") from None
    for ranks in tensor_parallel:
        if ranks < 1 or heads % ranks or inter % ranks:
            raise MeasurementError(
                f"tensor parallel {ranks} does not divide {heads} heads and {inter} columns"
            )
        q, kv, wide = heads // ranks * dim, max(1, kv_heads // ranks) * dim, inter // ranks
        products = [(q + 2 * kv, hidden), (hidden, q), (2 * wide, hidden), (hidden, wide)]
        for tokens in TOKENS:
            for n, k in products:
                yield {"family": "gemm", "kind": "bf16", "m": tokens, "n": n, "k": k}
            if tokens <= max(BATCHES):
                yield {"family": "gemm", "kind": "bf16", "m": tokens, "n": layers_vocab // ranks, "k": hidden}
            for family, width in (
                ("norm", hidden),
                ("activation", 2 * wide),
                ("rope", q + kv),
                ("embedding", hidden),
            ):
                yield {"family": family, "tokens": tokens, "hidden": width}
        local = {"heads": heads // ranks, "kv_heads": max(1, kv_heads // ranks), "head_dim": dim}
        head = {"family": "attention", "kv_kind": "bf16", **local}
        none = {"prefill_seqs": 0, "prefill_q": 0, "prefill_context": 0, "decode_seqs": 0, "decode_kv": 0}
        for keys in KEYS:
            for batch in BATCHES:
                if batch * keys <= 2**20:
                    yield {**head, **none, "decode_seqs": batch, "decode_kv": keys}
        for chunk in CHUNKS:
            for context in (0, *KEYS[3:]):
                prefill = {"prefill_seqs": 1, "prefill_q": chunk, "prefill_context": context}
                yield {**head, **none, **prefill}
                for batch in BATCHES[::2]:
                    yield {**head, **none, **prefill, "decode_seqs": batch, "decode_kv": 1024}


def key_of(shape: Shape) -> str:
    """Identity of a shape in the journal."""
    return json.dumps({name: shape[name] for name in ("family", *SHAPE_COLUMNS[shape["family"]])})


def collect(
    shapes: list[Shape],
    timer: Timer,
    journal: Path,
    *,
    repeats: int = REPEATS,
    note: Callable[[Progress], None] = lambda progress: None,
    clock: Callable[[], float] = time.monotonic,
) -> list[dict[str, Any]]:
    """Time every shape that the journal does not have yet; returns all records (one a shape).

    A shape that the timer cannot run is recorded with its error and skipped from then on. Delete the journal
    to start over.
    """
    records = _read_journal(journal, timer.gpu_name)
    done = {record["key"] for record in records}
    todo = list({key_of(s): s for s in shapes if key_of(s) not in done}.items())
    start = clock()
    journal.parent.mkdir(parents=True, exist_ok=True)
    with journal.open("a") as handle:
        for index, (key, shape) in enumerate(todo):
            record = {"key": key, "gpu_name": timer.gpu_name, **_measure(shape, timer, repeats)}
            handle.write(json.dumps(record) + "\n")
            handle.flush()
            records.append(record)
            spent = clock() - start
            left = spent / (index + 1) * (len(todo) - index - 1)
            note(Progress(index + 1, len(todo), left, shape["family"]))
    return records


def _measure(shape: Shape, timer: Timer, repeats: int) -> dict[str, Any]:
    try:
        launch = timer.prepare(shape)
        cold = sorted(timer.graph_ns(launch, repeats, cold=True))
        warm = sorted(timer.graph_ns(launch, repeats, cold=False))
        host = timer.host_launch_ns(launch)
    except MeasurementError as error:
        return {"error": str(error)}
    return {
        "cold_ns": statistics.median(cold), "warm_ns": statistics.median(warm),
        "p10_ns": cold[len(cold) // 10], "p90_ns": cold[(len(cold) * 9) // 10], "host_ns": host,
        "repeats": repeats,
    }  # fmt: skip


def _read_journal(journal: Path, gpu_name: str) -> list[dict[str, Any]]:
    if not journal.exists():
        return []
    records = []
    lines = journal.read_text().splitlines()
    for number, line in enumerate(lines, 1):
        try:
            records.append(json.loads(line))
        except ValueError:
            if number == len(lines):  # the run was killed while it wrote this line
                break
            raise MeasurementError(
                f"{journal}, line {number}: not JSON; delete the file to start over"
            ) from None
    foreign = {r.get("gpu_name") for r in records} - {gpu_name}
    if foreign:
        raise MeasurementError(
            f"{journal}: begun on {', '.join(map(str, foreign))}, this is {gpu_name}; use another folder"
        )
    return records


def to_frame(records: list[dict[str, Any]], gpu: str, engine: str, engine_version: str) -> pd.DataFrame:
    """Records as rows of the measurement schema: one cold row a shape (decode attention included)."""
    import pandas as pd

    rows = []
    for record in records:
        if "error" in record:
            continue
        shape = json.loads(record["key"])
        row = {**shape, "gpu": gpu, "source": "collect", "engine": engine, "engine_version": engine_version,
               "implementation": shape["family"], "timing": "graph", "l2": "cold",
               "latency_ns": float(record["cold_ns"]), "p10_ns": float(record["p10_ns"]),
               "p90_ns": float(record["p90_ns"]), "repeats": int(record["repeats"])}  # fmt: skip
        if shape["family"] == "gemm":
            row["batch"] = 1
        elif shape["family"] == "attention":
            row |= {"kind": "bf16", "head_dim_v": shape["head_dim"], "window": 0}
        else:
            read, write = TRAFFIC[shape["family"]]
            elements = row.pop("hidden") * shape["tokens"]
            row |= {
                "kind": "bf16",
                "read_bytes": float(read * elements),
                "write_bytes": float(write * elements),
            }
        rows.append(row)
    if not rows:
        raise MeasurementError("nothing was measured; every shape failed (see the journal)")
    return pd.DataFrame(rows)


def left_text(progress: Progress) -> str:
    """`12/345, 3 min left`."""
    minutes = progress.left_s / 60
    left = f"{minutes:.0f} min" if minutes >= 1 else f"{progress.left_s:.0f} s"
    return f"{progress.done}/{progress.total}, {left} left"
