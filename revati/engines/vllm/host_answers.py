"""Ops of vLLM's kernel libraries that would ask the CUDA driver: answered from the GPU spec.

They take no device tensor, so there is no device kernel to take over. The real ones fail without a driver,
`get_device_attribute` by ending the process.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from revati.spec import GpuSpec

ANSWERS: dict[str, tuple[str, Callable[..., Any]]] = {}  # op: (dispatch key, function)
OF_DECLARED: set[str] = set()  # ops whose own answer is right where their library could be loaded
_libraries: list[Any] = []
_done: set[str] = set()
_deep_gemm: dict[str, int | bool] = {}  # what its set_* functions were given
_MK_ALIGNMENT = 128  # rows of a grouped GEMM's block on Hopper: kLegacyMKAlignmentForContiguousLayout


def answer(
    name: str, key: str = "CompositeExplicitAutograd"
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Make a function the implementation of op `name` ("namespace::op") for dispatch key `key`."""

    def add(function: Callable[..., Any]) -> Callable[..., Any]:
        ANSWERS[name] = (key, function)
        return function

    return add


def register() -> None:
    """Register the answers of all ops that exist by now; runs after each kernel library."""
    import warnings

    import torch

    from revati.cuda import declared

    known = set(torch._C._dispatch_get_all_op_names())
    for name, (key, function) in ANSWERS.items():
        if name in _done or name not in known:
            continue
        _done.add(name)
        namespace, op = name.split("::")
        if name in OF_DECLARED and namespace not in declared.NAMESPACES:
            continue
        library = torch.library.Library(namespace, "IMPL")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            library.impl(op, function, key, allow_override=True)
        _libraries.append(library)


def _spec() -> GpuSpec:
    from revati.spec import load_spec

    return load_spec(os.environ["REVATI_GPU"])


# ---------------------------------------------------------------- vLLM's own
@functools.cache
def _attributes() -> dict[int, int]:
    """cudaDeviceAttr by number, of driver_types.h."""
    spec = _spec()
    return {
        1: spec.max_threads_per_block,
        8: spec.shared_memory_per_block_bytes,
        10: spec.warp_size,
        13: int(spec.sm_clock_hz / 1e3),
        16: spec.sm_count,
        36: int(spec.memory_clock_hz / 1e3),
        37: spec.memory_bus_bits,
        38: spec.l2_bytes,
        39: spec.max_threads_per_sm,
        75: spec.compute_capability[0],
        76: spec.compute_capability[1],
        81: spec.shared_memory_per_sm_bytes,
        82: spec.regs_per_sm,
        97: spec.shared_memory_per_block_optin_bytes,
    }


@answer("_C_cuda_utils::get_device_attribute")
def _device_attribute(attribute: int, device_id: int) -> int:
    if attribute not in _attributes():
        known = ", ".join(map(str, _attributes()))
        raise NotImplementedError(
            f"revati: cudaDeviceAttr {attribute} is not part of a GPU spec; known: {known}. "
            f"Add it to revati/engines/vllm/host_answers.py"
        )
    return _attributes()[attribute]


@answer("_C_cuda_utils::get_max_shared_memory_per_block_device_attribute")
def _max_shared_memory(device_id: int) -> int:
    return _spec().shared_memory_per_block_optin_bytes


@answer("_C_cache_ops::swap_blocks_batch", "CPU")
def _swap_blocks_batch(
    src_ptrs: Any, dst_ptrs: Any, sizes: Any, is_src_access_order_any: bool = False
) -> None:
    """Copies between host and device, given as pointers: recorded as one copy of all their bytes."""
    import torch

    from revati import _C

    block = torch.empty(int(sizes.sum()), dtype=torch.uint8, device="meta")
    _C.launch("copy::h2d", ["dst", "src"], block, block, device=torch.cuda.current_device())


# ------------------------------------- what is asked of libraries that are only declared (`declared.py`)
def _from_capability(name: str, lowest: int) -> None:
    """Op `name` says whether kernels exist for a compute capability (major x 10 + minor): from `lowest` on.

    Source: csrc/quantization/cutlass_w8a8/scaled_mm_entry.cu of vLLM 0.11, built with CUDA 12.8.
    """
    OF_DECLARED.add(name)
    answer(name)(lambda capability: capability >= lowest)


_from_capability("_C::cutlass_scaled_mm_supports_fp8", 89)
_from_capability("_C::cutlass_scaled_mm_supports_block_fp8", 90)
_from_capability("_C::cutlass_sparse_scaled_mm_supported", 90)
_from_capability("_C::cutlass_group_gemm_supported", 90)
_from_capability("_C::cutlass_scaled_mm_supports_fp4", 100)


# ---------------------------------------------------------------- DeepGEMM's settings
@answer("deep_gemm::get_num_sms")
def _num_sms() -> int:
    return int(_deep_gemm.get("num_sms", _spec().sm_count))


@answer("deep_gemm::set_num_sms")
def _set_num_sms(new_num_sms: int) -> None:
    _deep_gemm["num_sms"] = new_num_sms


@answer("deep_gemm::get_tc_util")
def _tc_util() -> int:
    return int(_deep_gemm.get("tc_util", 100))


@answer("deep_gemm::set_tc_util")
def _set_tc_util(new_tc_util: int) -> None:
    _deep_gemm["tc_util"] = new_tc_util


@answer("deep_gemm::get_pdl")
def _pdl() -> bool:
    return bool(_deep_gemm.get("pdl", False))


@answer("deep_gemm::set_pdl")
def _set_pdl(new_enable_pdl: bool) -> None:
    _deep_gemm["pdl"] = new_enable_pdl


@answer("deep_gemm::get_theoretical_mk_alignment_for_contiguous_layout")
def _mk_alignment(expected_m: int | None = None) -> int:
    return _MK_ALIGNMENT
