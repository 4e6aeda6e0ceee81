"""Mixture of experts: grouped GEMMs under a stated expert load.

Assumption, everywhere: each token picks its `topk` distinct experts uniformly at random. The number of
experts that get at least one row, and so the weights that are read, follows from it (`active_experts`).
"""

from __future__ import annotations

import math
from collections.abc import Callable

from revati.latency.ops.gemm import WEIGHT_BYTES, element_kind
from revati.latency.record import ArgView, TensorArg, nbytes, numel
from revati.latency.work import MoeShape, Work


def active_experts(tokens: float, topk: int, experts: int) -> float:
    """Expected number of experts with work, for uniformly random routing."""
    if experts <= 0:
        return 0.0
    return experts * (1.0 - (1.0 - min(1.0, topk / experts)) ** tokens)


def moe_work(shape: MoeShape, active: float | None = None) -> Work:
    """Work of one grouped GEMM; `active`: experts with work (default: `active_experts`)."""
    rows = float(shape.tokens * shape.topk)
    busy = active_experts(shape.tokens, shape.topk, shape.experts) if active is None else active
    weight = WEIGHT_BYTES.get(shape.kind, 2.0)
    factor = 1.5 if shape.stage == "both" else 1.0  # up [2 inter, hidden] and down [hidden, inter]
    return Work(
        family="moe",
        read_bytes=factor * busy * shape.n * shape.k * weight + rows * shape.k * 2.0,
        write_bytes=rows * shape.n * 2.0,
        flops=factor * 2.0 * rows * shape.n * shape.k,
        flop_kind=shape.kind,
        shape=shape,
    )


def _fused(view: ArgView) -> Work | None:
    """vLLM's and SGLang's Triton kernel: a [rows, k], b [experts, n, k], c [tokens, topk, n]."""
    a, b, c = view.tensor("a_ptr"), view.tensor("b_ptr"), view.tensor("c_ptr")
    if a is None or b is None or len(b.shape) != 3:
        return None
    experts, n, k = b.shape
    rows = view.get("num_valid_tokens")
    if not isinstance(rows, int) or rows <= 0:
        rows = numel(c) // n if c is not None else a.shape[0]
    topk = view.get("top_k")
    topk = topk if isinstance(topk, int) and topk > 0 else 1
    down = bool(view.get("MUL_ROUTED_WEIGHT", default=False)) or topk == 1
    if topk == 1 and c is not None and len(c.shape) == 3:
        topk = c.shape[1]
    kind = element_kind(b.dtype)
    if view.get("use_int4_w4a16"):
        kind, k = "int4_wo", a.shape[-1]
    elif view.get("use_int8_w8a16"):
        kind = "int8_wo"
    elif kind == "fp8" and isinstance(view.get("group_k"), int) and view.get("group_k") > 0:
        kind = "fp8_block"
    stage = "down" if down else "up"
    return moe_work(MoeShape(max(1, rows // topk), topk, experts, n, k, kind, stage))


def _marlin(view: ArgView) -> Work | None:
    weight = view.tensor("b_q_weight")
    sizes = [view.get(name) for name in ("size_m", "size_n", "size_k", "top_k")]
    if weight is None or not all(isinstance(x, int) for x in sizes):
        return None
    m, n, k, topk = sizes
    experts = weight.shape[0]
    bits = nbytes(weight) * 8 / max(1, experts * n * k)
    down = bool(view.get("mul_topk_weights", default=False))
    tokens = m if not down or topk > 1 else max(1, m)
    return moe_work(MoeShape(tokens, topk, experts, n, k, "int4_wo" if bits < 6 else "int8_wo",
                             "down" if down else "up"))  # fmt: skip


def _cutlass(view: ArgView) -> Work | None:
    a, b, out = (
        view.tensor("a_tensors", "a"),
        view.tensor("b_tensors", "b"),
        view.tensor("out_tensors", "out"),
    )
    if a is None or b is None or out is None or len(b.shape) != 3:
        return None
    n, k = out.shape[-1], a.shape[-1]
    kind = element_kind(a.dtype)
    if a.dtype.removeprefix("torch.") == "uint8":
        kind, k = "fp4", k * 2
    return moe_work(MoeShape(a.shape[0], 1, b.shape[0], n, k, kind, "up" if n > k else "down"))


def _matmul_ogs(view: ArgView) -> Work | None:
    """Triton's own expert kernel (gpt-oss): routed rows of X by W [experts, k, n], mostly 4-bit."""
    weight, x = view.tensor("WPtr"), view.tensor("XPtr")
    n, k, experts, topk = (view.get(name) for name in ("N", "K", "N_EXPTS_TOT", "N_EXPTS_ACT"))
    if weight is None or x is None or not (isinstance(n, int) and isinstance(k, int)):
        return None
    if not isinstance(experts, int) or experts < 2 or not isinstance(topk, int) or topk < 1:
        return None
    gathered = view.tensor("GatherIndx") is not None  # of the first product: X has a row for each token
    rows = numel(x) // max(1, x.shape[-1])
    tokens = rows if gathered else max(1, rows // topk)
    packed = weight.dtype.removeprefix("torch.") == "uint8"
    kind = "mxfp4_wo" if packed else element_kind(weight.dtype)
    return moe_work(MoeShape(tokens, topk, experts, n, k, kind, "up" if gathered else "down"))


_DEEP_GEMM_ALIGNMENT = 128
"""Rows to which DeepGEMM's contiguous layout pads each expert (`get_mk_alignment_for_contiguous_layout`)."""


def _deep_gemm(view: ArgView) -> Work | None:
    """a: [padded rows, k], or [experts, rows, k] of which `expected_m` are used; b: [experts, n, k]."""
    a, b = view.tensor("a"), view.tensor("b")
    if a is None or b is None or len(b.shape) != 3:
        return None
    experts, n, _ = b.shape
    k = a.shape[-1]
    expected = view.get("expected_m")
    if len(a.shape) == 3:
        rows = experts * (expected if isinstance(expected, int) and expected > 0 else a.shape[1])
    else:  # the engine makes room for the most padding that there can be
        rows = max(1, a.shape[0] - experts * (_DEEP_GEMM_ALIGNMENT - 1))
    kind = "fp8_block" if b.dtype.removeprefix("torch.").startswith("float8") else "mxfp4"
    stage = "down" if n > k else "up"  # of the many small experts of block-quantised models
    return moe_work(MoeShape(rows, 1, experts, n, k, kind, stage))


def _trtllm(kind: str) -> Callable[[ArgView], Work | None]:
    """FlashInfer's TensorRT-LLM experts: both products in one call, on the experts that this rank holds."""

    def extract(view: ArgView) -> Work | None:
        hidden = view.tensor("hidden_states")
        sizes = ("hidden_size", "intermediate_size", "top_k", "num_experts", "local_num_experts")
        values = [view.get(name) for name in sizes]
        if hidden is None or not all(isinstance(value, int) and value > 0 for value in values):
            return None
        k, inter, topk, experts, local = values
        rows = max(1, round(hidden.shape[0] * topk * local / experts))
        here = max(1, round(topk * local / experts))
        return moe_work(MoeShape(max(1, rows // here), here, local, 2 * inter, k, kind, "both"))

    return extract


def _rows(tensor: TensorArg | None) -> float:
    return 0.0 if tensor is None or not tensor.shape else float(math.prod(tensor.shape))


def _align(view: ArgView) -> Work:
    ids = _rows(view.tensor("topk_ids"))
    return Work(family="moe_aux", read_bytes=8 * ids, write_bytes=8 * ids, kernels=2.0 if ids > 1024 else 1.0)


def _topk(view: ArgView) -> Work:
    gating = view.bytes_of("gating_output", "scores")
    return Work(
        family="moe_aux", read_bytes=gating, write_bytes=view.bytes_of("topk_weights", "topk_indices")
    )


def _moved(reads: tuple[str, ...], writes: tuple[str, ...]) -> Callable[[ArgView], Work]:
    def extract(view: ArgView) -> Work:
        return Work(family="moe_aux", read_bytes=view.bytes_of(*reads), write_bytes=view.bytes_of(*writes))

    return extract


EXTRACTORS: dict[str, Callable[[ArgView], Work | None]] = {
    "triton::fused_moe_kernel": _fused,
    "triton::fused_moe_kernel_gptq_awq": _fused,
    "triton::_matmul_ogs": _matmul_ogs,
    "triton::_p_matmul_ogs": _matmul_ogs,
    "_moe_C::moe_wna16_marlin_gemm": _marlin,
    "_moe_C::moe_wna16_gemm": lambda view: None,
    "_C::cutlass_moe_mm": _cutlass,
    "_C::cutlass_fp4_group_mm": _cutlass,
    "deep_gemm::m_grouped_fp8_fp4_gemm_nt_contiguous": _deep_gemm,
    "deep_gemm::m_grouped_fp8_fp4_gemm_nt_masked": _deep_gemm,
    "flashinfer::trtllm_bf16_moe": _trtllm("bf16"),
    "flashinfer::trtllm_fp8_per_tensor_scale_moe": _trtllm("fp8"),
    "flashinfer::trtllm_fp8_block_scale_moe": _trtllm("fp8_block"),
    "flashinfer::trtllm_fp4_block_scale_moe": _trtllm("fp4"),
    "_moe_C::moe_align_block_size": _align,
    "_moe_C::batched_moe_align_block_size": _align,
    "_moe_C::topk_softmax": _topk,
    "_moe_C::topk_sigmoid": _topk,
    "_moe_C::grouped_topk": _topk,
    "_moe_C::moe_sum": _moved(("input",), ("output",)),
    "_moe_C::moe_permute": _moved(("input", "topk_ids"), ("permuted_input",)),
    "_moe_C::moe_unpermute": _moved(("permuted_hidden_states",), ("hidden_states",)),
    "_moe_C::shuffle_rows": _moved(("output_tensor",), ("output_tensor",)),
}
