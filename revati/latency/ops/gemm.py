"""Matrix products: which arguments are the matrices, and what m, n, k and element kind they have."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

from revati.latency.record import ArgView, TensorArg, dtype_bytes, nbytes
from revati.latency.work import GemmShape, Work

WEIGHT_BYTES = {"bf16": 2.0, "fp16": 2.0, "fp32": 4.0, "fp8": 1.0, "fp8_block": 1.0, "int8": 1.0,
                "int4_wo": 0.53, "int8_wo": 1.03, "fp4": 0.56, "mxfp4": 0.53, "mxfp4_wo": 0.53}  # fmt: skip
"""Bytes of one weight, scales of quantised kinds included (groups of 128 for int4, 32 mxfp4, 16 fp4)."""


def element_kind(dtype: str) -> str:
    """Kind of a dense matrix product over `dtype`: "bf16", "fp16", "fp32", "fp8", "int8"."""
    dtype = dtype.removeprefix("torch.")
    if dtype.startswith("float8"):
        return "fp8"
    return {"bfloat16": "bf16", "float16": "fp16", "half": "fp16", "float32": "fp32", "float64": "fp64",
            "int8": "int8", "uint8": "int8"}.get(dtype, "bf16")  # fmt: skip


def gemm_work(m: int, n: int, k: int, kind: str, *, batch: int = 1, out_bytes: float = 2.0) -> Work:
    """Work of `batch` products [m, k] @ [k, n] of `kind`; weight-only kinds have 2-byte activations."""
    weight = WEIGHT_BYTES.get(kind, 2.0)
    activation = 2.0 if kind.endswith("_wo") else (1.0 if kind.startswith("fp8") else weight)
    return Work(
        family="gemm",
        read_bytes=batch * (m * k * activation + n * k * weight),
        write_bytes=batch * m * n * out_bytes,
        flops=2.0 * batch * m * n * k,
        flop_kind=kind,
        shape=GemmShape(m=m, n=n, k=k, kind=kind, batch=batch),
    )


def _product(a: TensorArg, b: TensorArg, kind: str | None = None, *, b_transposed: bool = False) -> Work:
    if len(a.shape) == 3 and len(b.shape) == 3:
        batch, m, k = a.shape
        n = b.shape[1] if b_transposed else b.shape[2]
    else:
        batch, k = 1, a.shape[-1] if a.shape else 1
        m = math.prod(a.shape[:-1])
        n = b.shape[0] if b_transposed else (b.shape[-1] if len(b.shape) > 1 else 1)
    kind = kind or element_kind(b.dtype if dtype_bytes(b.dtype) < dtype_bytes(a.dtype) else a.dtype)
    return gemm_work(m, n, k, kind, batch=batch, out_bytes=max(2.0, dtype_bytes(a.dtype)))


def _two(first: str, second: str, *, transposed: bool = False) -> Callable[[ArgView], Work | None]:
    def extract(view: ArgView) -> Work | None:
        a, b = view.tensor(first), view.tensor(second)
        return None if a is None or b is None else _product(a, b, b_transposed=transposed)

    return extract


_BMM_FP8_ROWS = 256
"""Up to here FlashInfer's bmm_fp8 is priced as any product in fp8: its decode steps were measured as fast.

Beyond, at prefill, it took a B200 2 to 4 times as long as those of the tables (vLLM issue 49723, pull request
53400), and builds a plan for each new number of rows (pull request 48210): how long is not known.
"""


def _bmm_fp8(view: ArgView) -> Work | None:
    work = _two("a", "b")(view)
    if work is None or not isinstance(work.shape, GemmShape) or work.shape.m <= _BMM_FP8_ROWS:
        return work
    return replace(work, shape=replace(work.shape, known=False))


def _scaled(a_name: str, b_name: str, scale_name: str) -> Callable[[ArgView], Work | None]:
    def extract(view: ArgView) -> Work | None:
        a, b, scale = view.tensor(a_name), view.tensor(b_name), view.tensor(scale_name)
        if a is None or b is None:
            return None
        kind = element_kind(a.dtype)
        if kind == "fp8" and scale is not None and len(scale.shape) == 2 and min(scale.shape) > 1:
            kind = "fp8_block"
        return _product(a, b, kind)

    return extract


def _deep_gemm(view: ArgView) -> Work | None:
    a, b = view.tensor("a"), view.tensor("b")
    if a is None or b is None:
        return None
    kind = "fp8_block" if b.dtype.removeprefix("torch.").startswith("float8") else "fp4"
    return _product(a, b, kind, b_transposed=True)


def _fp4(columns: int) -> Callable[[ArgView], Work | None]:
    """Two 4-bit numbers a byte along k; `columns`: the axis of b that gives the result's columns."""

    def extract(view: ArgView) -> Work | None:
        a, b = view.tensor("a"), view.tensor("b")
        if a is None or b is None:
            return None
        return gemm_work(a.shape[0], b.shape[columns], a.shape[1] * 2, "fp4")

    return extract


def _marlin(view: ArgView) -> Work | None:
    weight = view.tensor("b_q_weight")
    m, n, k = view.get("size_m"), view.get("size_n"), view.get("size_k")
    if weight is None or not all(isinstance(x, int) for x in (m, n, k)):
        return None
    bits = nbytes(weight) * 8 / max(1, n * k)
    return gemm_work(m, n, k, "int4_wo" if bits < 6 else "int8_wo")


def _packed(a_name: str, n_of: Callable[[ArgView], int | None]) -> Callable[[ArgView], Work | None]:
    def extract(view: ArgView) -> Work | None:
        a, n = view.tensor(a_name), n_of(view)
        if a is None or n is None:
            return None
        return gemm_work(math.prod(a.shape[:-1]), n, a.shape[-1], "int4_wo")

    return extract


def _columns(name: str, factor: int = 1) -> Callable[[ArgView], int | None]:
    def n_of(view: ArgView) -> int | None:
        weight = view.tensor(name)
        return None if weight is None else weight.shape[-1] * factor

    return n_of


def _output_columns(view: ArgView) -> int | None:
    return view.record.outputs[0].shape[-1] if view.record.outputs else None


EXTRACTORS: dict[str, Callable[[ArgView], Work | None]] = {
    "aten::mm": _two("self", "mat2"),
    "aten::bmm": _two("self", "mat2"),
    "aten::addmm": _two("mat1", "mat2"),
    "aten::addmm_": _two("mat1", "mat2"),
    "aten::baddbmm": _two("batch1", "batch2"),
    "aten::linear": _two("input", "weight", transposed=True),
    "aten::matmul": _two("self", "other"),
    "aten::_int_mm": _two("self", "mat2"),
    "aten::_scaled_mm": _scaled("self", "mat2", "scale_a"),
    "aten::_scaled_mm_v2": _scaled("self", "mat2", "scale_a"),
    "aten::mv": _two("self", "vec"),
    "_C::cutlass_scaled_mm": _scaled("a", "b", "a_scales"),
    "_C::cutlass_scaled_mm_azp": _scaled("a", "b", "a_scales"),
    "_C::cutlass_scaled_fp4_mm": _fp4(0),
    "flashinfer::bmm_fp8": _bmm_fp8,
    "flashinfer::mm_fp4": _fp4(1),
    "_C::marlin_gemm": _marlin,
    "_C::gptq_marlin_gemm": _marlin,
    "_C::gptq_gemm": _packed("a", _columns("b_q_weight")),
    "_C::awq_gemm": _packed("_in_feats", _columns("_kernel", 8)),
    "_C::machete_mm": _packed("A", _output_columns),
    "_C::cutlass_w4a8_mm": _packed("A", _output_columns),
    "deep_gemm::fp8_fp4_gemm_nt": _deep_gemm,
    "deep_gemm::fp8_gemm_nt_skip_head_mid": _deep_gemm,
    "_C::dsv3_fused_a_gemm": _two("mat_a", "mat_b"),
    "_C::fp32_router_gemm": _two("mat_a", "mat_b", transposed=True),
    "_moe_C::router_gemm_bf16_fp32": _two("input", "weight", transposed=True),
    "_moe_C::dsv3_router_gemm": _two("mat_a", "mat_b", transposed=True),
    "triton::_w8a8_triton_block_scaled_mm": _scaled("A", "B", "As"),
}
