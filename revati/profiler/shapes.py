"""Which shapes to measure: what an engine launched, over the token counts and lengths of serving.

A recording (`profiler.recording`) says which products, widths and heads a model has on one rank. A run asks
for each of them at many token counts, so that these are multiplied with grids here.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from revati.profiler.measure import MeasurementError

TOKENS = (1, 2, 4, 8, 16, 32, 48, 64, 96, 128, 160, 192, 256, 384, 512, 768, 1024, 1536, 2048, 4096, 8192)
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
KEYS = (16, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)
CHUNKS = (16, 64, 128, 256, 512, 1024, 2048, 4096, 8192)
SHAPE_COLUMNS = {
    "gemm": ("kind", "m", "n", "k"),
    "attention": (
        "heads", "kv_heads", "head_dim", "kv_kind", "prefill_seqs", "prefill_q", "prefill_context",
        "decode_seqs", "decode_kv",
    ),
    "norm": ("tokens", "hidden"), "activation": ("tokens", "hidden"), "rope": ("tokens", "hidden"),
    "embedding": ("tokens", "hidden"), "elementwise": ("tokens", "hidden"),
}  # fmt: skip
"""What a shape of each family must say; `hidden`: elements of one row of the input."""
GEMM_KINDS = ("bf16", "fp8")
LARGEST_KEYS = 2**20
"""Keys of all sequences of a decode call together."""

Shape = dict[str, Any]


@dataclass
class Launches:
    """What one rank launches: products (kind, n, k) with the largest m, row widths, attention heads."""

    products: dict[tuple[str, int, int], int] = field(default_factory=dict)
    widths: set[tuple[str, int]] = field(default_factory=set)
    heads: set[tuple[int, int, int, str]] = field(default_factory=set)
    not_measured: set[str] = field(default_factory=set)

    def add(self, row: dict[str, Any]) -> None:
        """One row of a work log (`latency.worklog`); what `collect` cannot time goes to `not_measured`."""
        family: str = row["family"]
        shape: Any = row.get("shape")
        if family == "gemm" and shape["kind"] in (*GEMM_KINDS, "fp16") and shape["batch"] == 1:
            kind = "bf16" if shape["kind"] == "fp16" else shape["kind"]
            key = (kind, int(shape["n"]), int(shape["k"]))
            self.products[key] = max(self.products.get(key, 0), int(shape["m"]))
        elif family == "attention" and shape["head_dim"] == shape["head_dim_v"] and not shape["window"]:
            self.heads.add((shape["heads"], shape["kv_heads"], shape["head_dim"], shape["kv_kind"]))
        elif shape is None and "hidden" in row and family in SHAPE_COLUMNS:
            self.widths.add((family, int(row["hidden"])))
        elif shape is not None:
            self.not_measured.add(family)


def from_log(rows: Iterable[dict[str, Any]]) -> Launches:
    """Launches of all rows of a work log."""
    launches = Launches()
    for row in rows:
        launches.add(row)
    return launches


def grid(launches: Launches) -> Iterator[Shape]:
    """Every shape to measure, cheap ones first, each once."""
    for (kind, n, k), largest in sorted(launches.products.items()):
        for tokens in TOKENS:
            if tokens <= largest:
                yield {"family": "gemm", "kind": kind, "m": tokens, "n": n, "k": k}
    for family, width in sorted(launches.widths):
        for tokens in TOKENS:
            yield {"family": family, "tokens": tokens, "hidden": width}
    none = {"prefill_seqs": 0, "prefill_q": 0, "prefill_context": 0, "decode_seqs": 0, "decode_kv": 0}
    for heads, kv_heads, dim, kv_kind in sorted(launches.heads):
        head = {"family": "attention", "heads": heads, "kv_heads": kv_heads, "head_dim": dim} | none
        head["kv_kind"] = kv_kind
        for keys in KEYS:
            for batch in BATCHES:
                if batch * keys <= LARGEST_KEYS:
                    yield {**head, "decode_seqs": batch, "decode_kv": keys}
        for chunk in CHUNKS:
            for context in (0, *KEYS[3:]):
                prefill = {"prefill_seqs": 1, "prefill_q": chunk, "prefill_context": context}
                yield {**head, **prefill}
                for batch in BATCHES[::2]:
                    yield {**head, **prefill, "decode_seqs": batch, "decode_kv": 1024}


def read_shapes(path: Path) -> list[Shape]:
    """Shapes of a JSON-lines file. Raises MeasurementError naming the line that is wrong."""
    shapes = []
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise MeasurementError(f"{path}: {getattr(error, 'strerror', None) or 'not a text file'}") from None
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


def key_of(shape: Shape) -> str:
    """Identity of a shape in the journal."""
    return json.dumps({name: shape[name] for name in ("family", *SHAPE_COLUMNS[shape["family"]])})
