"""The measurement schema: one row is one timed call of one op on one GPU.

Every importer and the collector write this table (Parquet, zstd); every fit and report reads it. Columns
that do not apply to a family are null. Sizes are elements unless named bytes; `latency_ns` is one call,
one layer.

`timing` says what the clock saw, because a prediction must not count the gap between kernels twice:
  "graph"   per-call time of back-to-back calls in a CUDA graph: the kernel and the gap to the next one
  "kernel"  kernel duration from a profiler: no gap
`l2` says whether the inputs could be in the L2 cache ("warm": the same buffers every call; "cold": not).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

if TYPE_CHECKING:
    import pandas as pd

SCHEMA_VERSION = 1

_STRING, _INT, _FLOAT = pa.string(), pa.int64(), pa.float64()
SCHEMA = pa.schema(
    [
        ("gpu", _STRING),  # id of a spec: h100_sxm
        ("source", _STRING),  # aiconfigurator | llmservingsim | collect | csv
        ("engine", _STRING),
        ("engine_version", _STRING),
        ("implementation", _STRING),  # kernel or library, as the source names it
        ("timing", _STRING),
        ("l2", _STRING),
        ("family", _STRING),  # gemm | attention | moe | collective | norm | activation | rope | ...
        ("kind", _STRING),  # element kind: bf16 | fp8 | fp8_block | int8 | int4_wo | fp4
        ("label", _STRING),  # the source's own name of the op, for the report
        ("m", _INT), ("n", _INT), ("k", _INT), ("batch", _INT),  # gemm
        ("heads", _INT), ("kv_heads", _INT), ("head_dim", _INT), ("head_dim_v", _INT), ("window", _INT),
        ("kv_kind", _STRING),
        ("prefill_seqs", _INT),  # sequences with more than one new token, each with
        ("prefill_q", _INT),  # so many new tokens
        ("prefill_context", _INT),  # after so many already in the cache
        ("decode_seqs", _INT),  # sequences with one new token, each with
        ("decode_kv", _INT),  # so many keys (the new one counted)
        ("tokens", _INT), ("topk", _INT), ("experts", _INT), ("hidden", _INT), ("inter", _INT),  # moe
        ("distribution", _STRING),  # expert load: balanced | power_law_1.01 | ...
        ("world_size", _INT),  # collective
        ("read_bytes", _FLOAT), ("write_bytes", _FLOAT),  # collective: payload in read_bytes
        ("latency_ns", _FLOAT), ("p10_ns", _FLOAT), ("p90_ns", _FLOAT), ("repeats", _INT),
    ]
)  # fmt: skip

FAMILY_COLUMNS: dict[str, tuple[str, ...]] = {
    "gemm": ("m", "n", "k", "kind"),
    "attention": ("heads", "kv_heads", "head_dim", "prefill_seqs", "decode_seqs"),
    "moe": ("tokens", "topk", "experts", "hidden", "inter", "kind"),
    "collective": ("label", "implementation", "world_size", "read_bytes"),
}
LATENCY_RANGE_NS = (100.0, 6e10)


class MeasurementError(ValueError):
    """A measurement file that is missing, unreadable, or has a column or value out of the schema."""


def to_table(frame: pd.DataFrame) -> pa.Table:
    """`frame` in the schema: missing columns become null, unknown ones are an error; values are checked."""
    unknown = sorted(set(frame.columns) - set(SCHEMA.names))
    if unknown:
        raise MeasurementError(
            f"columns {', '.join(unknown)} are not in the measurement schema (docs/latency.md)"
        )
    columns = {}
    for field in SCHEMA:
        if field.name in frame.columns:
            columns[field.name] = frame[field.name]
        else:
            columns[field.name] = None
    import pandas as pd

    full = pd.DataFrame(columns, index=frame.index)
    try:
        table = pa.Table.from_pandas(full, schema=SCHEMA, preserve_index=False)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise MeasurementError(f"a column does not fit the schema: {' '.join(str(error).split())}") from None
    validate(frame)
    return table


def validate(frame: pd.DataFrame) -> None:
    """Raise MeasurementError for a row without latency, of an impossible one, or without its shape."""
    if "family" not in frame or "latency_ns" not in frame or "gpu" not in frame:
        raise MeasurementError("columns gpu, family and latency_ns are required (docs/latency.md)")
    low, high = LATENCY_RANGE_NS
    bad = frame[~frame["latency_ns"].between(low, high)]
    if len(bad):
        row = bad.index[0]
        raise MeasurementError(
            f"row {row}: latency_ns {bad['latency_ns'].iloc[0]!r} is outside {low:g} to {high:g}; "
            f"is the file in other units? nanoseconds are expected"
        )
    for family, needed in FAMILY_COLUMNS.items():
        rows = frame[frame["family"] == family]
        if len(rows):
            for name in needed:
                if name not in rows or rows[name].isna().any():
                    raise MeasurementError(f"family {family}: column {name} is required and has empty cells")


def write(frame: pd.DataFrame, path: Path, sources: list[dict[str, str]] | None = None) -> None:
    """Check and write measurements as Parquet; `sources` (name, version, licence, file, sha256) go along."""
    path.parent.mkdir(parents=True, exist_ok=True)
    meta = {"revati_schema": str(SCHEMA_VERSION), "revati_sources": json.dumps(sources or [])}
    pq.write_table(to_table(frame).replace_schema_metadata(meta), path, compression="zstd")


def read_sources(path: Path) -> list[dict[str, str]]:
    """The `sources` that `write` put into a file; [] for a file of another origin."""
    raw = (pq.read_schema(path).metadata or {}).get(b"revati_sources", b"[]")
    sources: list[dict[str, str]] = json.loads(raw)
    return sources


def read(path: Path) -> pd.DataFrame:
    """Measurements of one file. Raises MeasurementError with the path for whatever is wrong with it."""
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise MeasurementError(
            f"{path}: not a readable Parquet file ({' '.join(str(error).split())})"
        ) from None
    version = (table.schema.metadata or {}).get(b"revati_schema")
    if version is not None and int(version) != SCHEMA_VERSION:
        raise MeasurementError(f"{path}: schema version {int(version)}, expected {SCHEMA_VERSION}")
    frame = table.to_pandas()
    try:
        validate(frame)
    except MeasurementError as error:
        raise MeasurementError(f"{path}: {error}") from None
    return frame
