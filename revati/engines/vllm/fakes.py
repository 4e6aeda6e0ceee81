"""Shape rules for vLLM ops that return tensors and have no fake implementation of vLLM's own.

A rule is a function with the op's own arguments, on meta tensors, that returns what the op would:
see docs/adding-an-op.md.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from types import ModuleType
from typing import Any

_libraries: list[Any] = []
_done: set[str] = set()
RULES: dict[str, Callable[..., Any]] = {}
OVERRIDES = {"_vllm_fa3_C::fwd"}  # registered for Meta by the wheel, as a stub that only raises


def rule(name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a function as the shape rule of op `name` ("namespace::op")."""

    def add(function: Callable[..., Any]) -> Callable[..., Any]:
        RULES[name] = function
        return function

    return add


def register() -> None:
    """Give the dispatcher the rules of all ops that exist by now and have none; runs after each library."""
    import torch

    known = set(torch._C._dispatch_get_all_op_names())
    for name, function in RULES.items():
        if name in _done or name not in known:
            continue
        _done.add(name)
        if name not in OVERRIDES and torch._C._dispatch_has_kernel_for_dispatch_key(name, "Meta"):
            continue
        _implement(name, function, "Meta", override=name in OVERRIDES)
    if "memory" not in _done and {"_C::get_cuda_view_from_cpu_tensor", "_C::weak_ref_tensor"} <= known:
        from revati import _C

        _done.add("memory")
        _implement("_C::get_cuda_view_from_cpu_tensor", _C.uva_view, "CPU", override=True)
        _implement("_C::weak_ref_tensor", _C.weak_view, "CUDA", override=True)


def _implement(name: str, function: Callable[..., Any], key: str, *, override: bool) -> None:
    """Make `function` the implementation of op `name` for a dispatch key, until the process ends."""
    import torch

    namespace, op = name.split("::")
    library = torch.library.Library(namespace, "IMPL")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of overriding, which is meant
        library.impl(op, function, key, allow_override=override)
    _libraries.append(library)


@rule("_vllm_fa3_C::get_scheduler_metadata")
def _fa3_metadata(batch_size: int, *args: Any, **kwargs: Any) -> Any:
    import torch

    from revati.cuda import declared

    # flash_api.cpp: one semaphore and up to four vectors per batch entry; earlier one, of splits
    rows = (batch_size + 3) // 4 * 4
    vectors = batch_size if "_vllm_fa3_C" in declared.NAMESPACES else 4 * rows
    return torch.empty(1 + vectors, dtype=torch.int32, device="meta")


@rule("_vllm_fa3_C::fwd")
def _fa3_fwd(
    q: Any,
    k: Any,
    v: Any,
    k_new: Any = None,
    v_new: Any = None,
    q_v: Any = None,
    out: Any = None,
    *args: Any,
    **kwargs: Any,
) -> Any:
    import torch

    if out is None:
        dtype = torch.bfloat16 if q.element_size() == 1 else q.dtype
        out = torch.empty((*q.shape[:-1], v.shape[-1]), dtype=dtype, device="meta")
    lse = torch.empty((q.shape[-2], q.shape[0]), dtype=torch.float32, device="meta")
    return [out, lse, torch.empty(0, device="meta"), torch.empty(0, device="meta")]


@rule("_vllm_fa2_C::varlen_fwd")
def _fa2_varlen(q: Any, k: Any, v: Any, out: Any = None, *args: Any, **kwargs: Any) -> Any:
    import torch

    result = torch.empty_like(q) if out is None else out
    lse = torch.empty((q.shape[1], q.shape[0]), dtype=torch.float32, device="meta")
    return [result, lse]


@rule("_vllm_fa2_C::fwd_kvcache")
def _fa2_kvcache(q: Any, kcache: Any, vcache: Any, *args: Any, **kwargs: Any) -> Any:
    import torch

    return [
        torch.empty_like(q),
        torch.empty((q.shape[0], q.shape[2], q.shape[1]), dtype=torch.float32, device="meta"),
    ]


def _marlin_experts(a: Any, c: Any, *args: Any, **kwargs: Any) -> Any:
    import torch

    top_k, rows, columns = args[12], args[15], args[16]  # top_k, size_m, size_n
    return c if c is not None else torch.empty((rows * top_k, columns), dtype=a.dtype, device="meta")


def correct_custom_ops(_module: ModuleType) -> None:
    """Correct the shape rule of `moe_wna16_marlin_gemm`: a virtual device asks it, engines do not."""
    import torch

    from revati.cuda import ledger

    name = "_moe_C::moe_wna16_marlin_gemm"
    if not torch._C._dispatch_has_kernel_for_dispatch_key(name, "Meta"):
        return
    _implement(name, _marlin_experts, "Meta", override=True)
    ledger.note(
        f"{name} (Meta)",
        why="vLLM's rule lacks the op's last three arguments",
        until="vLLM's rule has them",
    )


PATCHES = {"vllm._custom_ops": correct_custom_ops}


@rule("_moe_C::moe_wna16_gemm")
def _moe_wna16(input: Any, output: Any, *args: Any, **kwargs: Any) -> Any:
    return output


@rule("deep_gemm::get_mn_major_tma_aligned_tensor")
def _deep_gemm_aligned(sf: Any) -> Any:
    return _mn_major(sf.shape, sf.dtype, 4)


@rule("deep_gemm::get_mn_major_tma_aligned_packed_ue8m0_tensor")
def _deep_gemm_packed(sf: Any, *args: Any, **kwargs: Any) -> Any:
    import torch

    return _mn_major((*sf.shape[:-1], -(-sf.shape[-1] // 4)), torch.int32, 4)


@rule("deep_gemm::transform_sf_into_required_layout")
def _deep_gemm_scales(
    sf: Any,
    mn: int,
    k: int,
    recipe: list[int],
    num_groups: int | None = None,
    is_sfa: bool | None = None,
    disable_ue8m0_cast: bool = False,
    psum_layout: Any = None,
) -> Any:
    import torch

    rows = recipe[0] if len(recipe) == 2 or is_sfa else recipe[1]  # of the matrix that one scale is for
    if sf.dtype != torch.float32:
        return sf
    if torch.cuda.get_device_capability()[0] == 9 or disable_ue8m0_cast:
        return sf if rows == 128 else _deep_gemm_aligned(sf)
    return _deep_gemm_packed(sf.new_empty((*sf.shape[:-2], mn, sf.shape[-1])))


def _mn_major(shape: Any, dtype: Any, align: int) -> Any:
    """Scales as DeepGEMM's TMA loads want them: rows next to each other, columns at multiples of 16 bytes."""
    import torch

    *outer, rows, columns = (int(size) for size in shape)
    pitch = -(-rows // align) * align
    strides = [1, pitch]
    size = pitch * columns
    for count in reversed(outer):
        strides.insert(0, size)
        size *= count
    return torch.empty_strided((*outer, rows, columns), strides, dtype=dtype, device="meta")
