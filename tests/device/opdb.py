"""PyTorch's op database as the judge: runs samples of an op on the CPU and on the virtual GPU, and compares.

Every sample runs twice on the device: with live inputs (shape, dtype, stride, device and values must be the
CPU's) and with phantom inputs (the same without values; refusing a data-dependent result is right).
"""

from __future__ import annotations

import copy
import itertools
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch._prims_common import check_significant_strides
from torch.testing._internal.common_methods_invocations import op_db
from torch.testing._internal.opinfo.core import OpInfo, SampleInput
from torch.utils import _pytree as pytree

from revati import _C

DTYPES = (torch.float32, torch.bfloat16, torch.int64)
UNINITIALISED = (
    "empty",
    "empty_like",
    "empty_strided",
    "empty_permuted",
    "new_empty",
    "new_empty_strided",
    "resize_",
    "resize_as_",
)
REFUSAL = "depends on values that a virtual GPU does not compute"
MEMORY_LIMIT = 1 << 28


class Mismatch(AssertionError):
    """What the device did otherwise than the CPU, in one line."""


def label(op: OpInfo) -> str:
    return f"{op.name}.{op.variant_test_name}" if op.variant_test_name else op.name


def ops() -> dict[str, OpInfo]:
    return {label(op): op for op in op_db}


def samples(op: OpInfo, dtype: torch.dtype, limit: int | None) -> Iterator[SampleInput]:
    if dtype not in op.supported_dtypes("cpu"):
        return iter(())
    torch.manual_seed(0)
    return itertools.islice(op.sample_inputs("cpu", dtype, requires_grad=False), limit)


def moved(value: Any, device: str) -> Any:
    """`value` with tensors and device arguments on `device`. Strides, conj and neg bits stay."""

    def one(v: Any) -> Any:
        if isinstance(v, torch.Tensor):
            return _moved_tensor(v, device)
        if isinstance(v, torch.device):
            return torch.device(device)
        return device if isinstance(v, str) and v == "cpu" else v

    return pytree.tree_map(one, value)


def _moved_tensor(t: torch.Tensor, device: str) -> torch.Tensor:
    if t.layout != torch.strided or t.is_quantized or t.is_nested:
        return t.to(device)
    if t.is_conj():
        return _moved_tensor(t.conj(), device).conj()
    if t.is_neg():
        return torch._neg_view(_moved_tensor(torch._neg_view(t), device))
    if t.untyped_storage().nbytes() > MEMORY_LIMIT:
        return t.to(device)
    flat = torch.empty(0, dtype=t.dtype).set_(t.untyped_storage())
    return flat.to(device).as_strided(t.size(), t.stride(), t.storage_offset())


def call(op: OpInfo, sample: SampleInput, device: str, *, phantom: bool, seed: int = 0) -> list[Any]:
    input, args, kwargs = copy.deepcopy((sample.input, sample.args, sample.kwargs))
    if device != "cpu":
        input, args, kwargs = moved((input, args, kwargs), device)
    if phantom:
        for leaf in pytree.tree_leaves((input, args, kwargs)):
            if (
                isinstance(leaf, torch.Tensor)
                and leaf.device.type == "revati"
                and leaf.layout == torch.strided
            ):
                _C.mark_phantom(leaf)
    torch.manual_seed(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        out = op(input, *args, **kwargs)
    return [leaf.detach() if isinstance(leaf, torch.Tensor) else leaf for leaf in pytree.tree_leaves(out)]


def compare(cpu: Any, device: Any, where: str, *, values: bool, kind: str) -> None:
    if not isinstance(cpu, torch.Tensor):
        if values and isinstance(cpu, (int, bool, str)) and cpu != device:
            raise Mismatch(f"{where}: value {device} is not {cpu}")
        return
    if not isinstance(device, torch.Tensor):
        raise Mismatch(f"{where}: {type(device).__name__} is no tensor")
    if device.device.type != kind:
        raise Mismatch(f"{where}: on {device.device}")
    for what in ("dtype", "shape", "layout"):
        if getattr(cpu, what) != getattr(device, what):
            raise Mismatch(f"{where}: {what} {getattr(device, what)} is not {getattr(cpu, what)}")
    if cpu.layout != torch.strided or kind == "cpu":
        return
    if not check_significant_strides(cpu, device)[0]:
        raise Mismatch(f"{where}: stride {device.stride()} is not {cpu.stride()}")
    if values:
        if not _C.is_live(device):
            raise Mismatch(f"{where}: phantom although all inputs are live")
        # The kernels are the CPU's; composites may pick others for this device, and round elsewhere.
        tolerance = 2e-2 if cpu.dtype == torch.bfloat16 else 1e-4
        torch.testing.assert_close(device.cpu(), cpu, rtol=tolerance, atol=tolerance, equal_nan=True)


def kind_of(sample: SampleInput) -> str:
    """Where the results belong: a factory call that names no device makes CPU tensors on any device."""
    leaves = pytree.tree_leaves((sample.input, sample.args, sample.kwargs))
    return (
        "revati" if any(isinstance(v, (torch.Tensor, torch.device)) or v == "cpu" for v in leaves) else "cpu"
    )


def same(a: list[Any], b: list[Any]) -> bool:
    return all(
        torch.equal(x.resolve_conj().nan_to_num(), y.resolve_conj().nan_to_num())
        if isinstance(x, torch.Tensor) and x.layout == torch.strided and not x.is_quantized
        else True
        for x, y in zip(a, b, strict=True)
    )


def judge(op: OpInfo, limit: int | None) -> tuple[int, list[str]]:
    """Samples that work on the CPU, and what went wrong with them on the device."""
    ran, wrong = 0, []
    for dtype in DTYPES:
        for index, sample in enumerate(samples(op, dtype, limit)):
            try:
                cpu = call(op, sample, "cpu", phantom=False)
                fixed = op.name not in UNINITIALISED and same(
                    cpu, call(op, sample, "cpu", phantom=False, seed=1)
                )
            except Exception:
                continue
            ran += 1
            for phantom in (False, True):
                where = f"{str(dtype)[6:]} sample {index} {'phantom' if phantom else 'live'}"
                try:
                    device = call(op, sample, "revati:0", phantom=phantom)
                    if len(device) != len(cpu):
                        raise Mismatch(f"{where}: {len(device)} results are not {len(cpu)}")
                    for k, (c, d) in enumerate(zip(cpu, device, strict=True)):
                        compare(
                            c, d, f"{where} result {k}", values=fixed and not phantom, kind=kind_of(sample)
                        )
                except Exception as error:
                    if phantom and REFUSAL in str(error):
                        continue
                    line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
                    wrong.append(
                        line
                        if isinstance(error, Mismatch)
                        else f"{where}: {type(error).__name__}: {line}"[:300]
                    )
    return ran, wrong
