"""What the device tells the latency layer about one launched op, and what it hears back.

These types are the contract between `csrc/dispatch` (which fills records) and this package (which prices
them). They carry shapes and dtypes, never data, but for the few small arguments that
`Predictor.live_args` names.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy


class TensorArg(NamedTuple):
    """One tensor argument. `dtype` as "bfloat16"; `values`: host values of a live argument, else None."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: str
    values: numpy.ndarray | None = None


class OpRecord(NamedTuple):
    """One launched op: `name` as "aten::mm", "_C::rms_norm", "triton::kernel", "c10d::allreduce",
    "copy::h2d".

    `args` in schema order (TensorArg, numbers, str, None, or lists of those), named by `arg_names`.
    """

    name: str
    args: tuple[Any, ...]
    outputs: tuple[TensorArg, ...] = ()
    arg_names: tuple[str, ...] = ()


class Prediction(NamedTuple):
    """Time on the device, ns; family; confidence: "in_range", "edge", "outside" or "roofline"."""

    duration_ns: float
    family: str
    confidence: str


DTYPE_BYTES: dict[str, float] = {
    "bool": 1, "uint8": 1, "int8": 1, "float8_e4m3fn": 1, "float8_e5m2": 1, "float8_e4m3fnuz": 1,
    "float8_e5m2fnuz": 1, "float8_e8m0fnu": 1, "int16": 2, "uint16": 2, "float16": 2, "half": 2,
    "bfloat16": 2,
    "int32": 4, "uint32": 4, "int": 4, "float32": 4, "float": 4, "int64": 8, "uint64": 8, "long": 8,
    "float64": 8, "double": 8, "complex64": 8, "complex128": 16, "float4_e2m1fn_x2": 1, "int4": 0.5,
}  # fmt: skip


def dtype_bytes(dtype: str) -> float:
    """Bytes of one element; 2 for a dtype that nobody named here."""
    return DTYPE_BYTES.get(dtype.removeprefix("torch."), 2)


def numel(tensor: TensorArg) -> int:
    """Number of elements (1 for a scalar tensor)."""
    return math.prod(tensor.shape)


def nbytes(tensor: TensorArg) -> float:
    """Bytes that reading the tensor once moves; an expanded dimension (stride 0) is read once."""
    count = 1
    stride = tensor.stride
    if len(stride) == len(tensor.shape):
        for size, step in zip(tensor.shape, stride, strict=True):
            if step != 0:
                count *= size
            elif size == 0:
                return 0.0
    else:
        count = math.prod(tensor.shape)
    return count * dtype_bytes(tensor.dtype)


class ArgView:
    """Arguments of a record by name, with the traffic sums that extractors need."""

    __slots__ = ("by_name", "record")

    def __init__(self, record: OpRecord) -> None:
        self.record = record
        self.by_name: dict[str, Any] = dict(zip(record.arg_names, record.args, strict=False))

    def get(self, *names: str, default: Any = None) -> Any:
        """The first argument of that name that is present and not None, else `default`."""
        for name in names:
            value = self.by_name.get(name)
            if value is not None:
                return value
        return default

    def tensor(self, *names: str) -> TensorArg | None:
        """As `get`, but only a tensor."""
        for name in names:
            value = self.by_name.get(name)
            if isinstance(value, TensorArg):
                return value
        return None

    def positional(self, index: int) -> TensorArg | None:
        """The `index`-th argument if it is a tensor."""
        args = self.record.args
        if index < len(args) and isinstance(args[index], TensorArg):
            return args[index]
        return None

    def tensors(self) -> Iterator[tuple[str, TensorArg]]:
        """(name, tensor) of every tensor argument, those inside lists included."""
        names = self.record.arg_names
        for i, value in enumerate(self.record.args):
            name = names[i] if i < len(names) else ""
            if isinstance(value, TensorArg):
                yield name, value
            elif isinstance(value, (list, tuple)):
                for item in value:
                    if isinstance(item, TensorArg):
                        yield name, item

    def bytes_of(self, *names: str) -> float:
        """Bytes of the named tensor arguments that are present."""
        return sum(nbytes(t) for n, t in self.tensors() if n in names)

    def output_bytes(self) -> float:
        """Bytes of the outputs."""
        return sum(nbytes(t) for t in self.record.outputs)
