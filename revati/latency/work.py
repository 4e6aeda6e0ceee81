"""What an op asks of the GPU, in numbers that any card understands: operations, bytes, and a shape to model.

Extractors (`revati.latency.ops`) turn a record into a `Work`; roofline and models turn a `Work` into time.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class GemmShape:
    """out[m, n] = a[m, k] @ b[k, n], `batch` times. kind: "bf16", "fp8", "int4_wo", ...

    `known` is False where another kernel than the tables' is known to run, at a time that is not.
    """

    m: int
    n: int
    k: int
    kind: str
    batch: int = 1
    known: bool = True


@dataclass(frozen=True, slots=True)
class AttentionShape:
    """One attention call over a ragged batch.

    seqs: (query length, total key length) of each sequence; window: sliding window in tokens, 0 for none.
    kv_kind: "bf16" or "fp8" (element type of the KV cache). `known` is False when lengths had to be guessed.
    """

    seqs: tuple[tuple[int, int], ...]
    heads: int
    kv_heads: int
    head_dim: int
    head_dim_v: int
    window: int = 0
    causal: bool = True
    kv_kind: str = "bf16"
    known: bool = True


@dataclass(frozen=True, slots=True)
class MoeShape:
    """One grouped GEMM of a mixture of experts: `tokens` x `topk` rows over `experts` matrices [n, k].

    stage: "up" (the first, fused gate and up), "down" (the second) or "both".
    """

    tokens: int
    topk: int
    experts: int
    n: int
    k: int
    kind: str
    stage: str


@dataclass(frozen=True, slots=True)
class CollectiveShape:
    """One collective: op ("allreduce", "allgather", ...), payload bytes of the op's larger side, ranks."""

    op: str
    payload_bytes: float
    world_size: int
    dtype: str
    implementation: str


Shape = GemmShape | AttentionShape | MoeShape | CollectiveShape


@dataclass(frozen=True, slots=True)
class Work:
    """Cost of one op: `family` "none" launches nothing. `kernels`: how many kernels the op is made of."""

    family: str
    read_bytes: float = 0.0
    write_bytes: float = 0.0
    flops: float = 0.0
    flop_kind: str = "fp32"
    kernels: float = 1.0
    shape: Shape | None = None

    @property
    def bytes(self) -> float:
        """Bytes moved, reads and writes."""
        return self.read_bytes + self.write_bytes


NOTHING = Work(family="none", kernels=0.0)
