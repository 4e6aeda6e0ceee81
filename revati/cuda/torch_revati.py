"""`torch.revati`: what `torch.cuda` is to CUDA, for the explicit identity."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch

from revati import _C
from revati.cuda.bindings import device_properties

Stream = torch.Stream
Event = torch.Event
OutOfMemoryError = torch.OutOfMemoryError


class CUDAGraph(_C.Graph):
    """A captured graph, used as `torch.cuda.CUDAGraph` is."""


def _index(device: Any) -> int:
    if device is None:
        return _C.current_device()
    if isinstance(device, int):
        return device
    index = torch.device(device).index
    return _C.current_device() if index is None else index


def is_available() -> bool:
    return bool(_C.device_count() > 0)


def is_initialized() -> bool:
    return bool(_C.installed())


def device_count() -> int:
    return int(_C.device_count())


def current_device() -> int:
    return int(_C.current_device())


def set_device(device: Any) -> None:
    _C.set_device(_index(device))


class device:
    """Context manager and decorator: the device is the current one inside; None or -1 changes nothing."""

    def __init__(self, device: Any) -> None:
        self.idx = -1 if device is None else _index(device)
        self.prev_idx = -1

    def __enter__(self) -> None:
        self.prev_idx = _C.current_device()
        if self.idx >= 0:
            _C.set_device(self.idx)

    def __exit__(self, *exc: object) -> None:
        _C.set_device(self.prev_idx)

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def inside(*args: Any, **kwargs: Any) -> Any:
            with type(self)(self.idx):
                return function(*args, **kwargs)

        return inside


class device_of(device):
    """`device` of a tensor; tensors elsewhere change nothing."""

    def __init__(self, tensor: torch.Tensor) -> None:
        super().__init__(tensor.get_device() if tensor.device.type == "revati" else None)


def _is_in_bad_fork() -> bool:
    return bool(_C.in_bad_fork())


def get_device_properties(device: Any = None) -> Any:
    return device_properties(_index(device))


def get_device_name(device: Any = None) -> str:
    return str(get_device_properties(device).name)


def get_device_capability(device: Any = None) -> tuple[int, int]:
    p = get_device_properties(device)
    return (p.major, p.minor)


def synchronize(device: Any = None) -> None:
    _C.synchronize(_index(device))


def current_stream(device: Any = None) -> torch.Stream:
    return torch.accelerator.current_stream(_index(device))


def default_stream(device: Any = None) -> torch.Stream:
    private_use: Any = torch._C._autograd.DeviceType.PrivateUse1
    return torch.Stream(stream_id=0, device_index=_index(device), device_type=int(private_use))


def set_stream(stream: torch.Stream | None) -> None:
    if stream is not None:
        _C.set_device(stream.device_index)
        _C.exchange_stream(stream.device_index, stream.stream_id)


def is_current_stream_capturing() -> bool:
    return bool(_C.capturing(_C.current_device()))


def graph_pool_handle() -> tuple[int, int]:
    first, second = _C.new_pool_id(True)
    return (first, second)


@contextlib.contextmanager
def stream(s: torch.Stream) -> Iterator[None]:
    before = _C.exchange_stream(s.device_index, s.stream_id)
    try:
        yield
    finally:
        _C.exchange_stream(s.device_index, before)


@contextlib.contextmanager
def graph(
    g: CUDAGraph, pool: tuple[int, int] | None = None, stream: torch.Stream | None = None
) -> Iterator[None]:
    synchronize()
    side = stream or torch.Stream(torch.device("revati", current_device()))
    before = _C.exchange_stream(side.device_index, side.stream_id)
    try:
        g.capture_begin(pool)
        try:
            yield
        finally:
            g.capture_end()
    finally:
        _C.exchange_stream(side.device_index, before)


def make_graphed_callables(*args: Any, **kwargs: Any) -> Any:
    """See `revati.cuda.graphed.make_graphed_callables`."""
    from revati.cuda import graphed

    return graphed.make_graphed_callables(*args, **kwargs)


def set_per_process_memory_fraction(fraction: float, device: Any = None) -> None:
    _C.set_memory_fraction(_index(device), fraction)


def mem_get_info(device: Any = None) -> tuple[int, int]:
    free, total = _C.memory_info(_index(device))
    return (free, total)


def memory_stats(device: Any = None) -> dict[str, int]:
    flat: dict[str, int] = {}

    def walk(prefix: str, value: Any) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                walk(f"{prefix}.{key}" if prefix else key, inner)
        else:
            flat[prefix] = value

    walk("", _C.memory_stats(_index(device)))
    return flat


def memory_allocated(device: Any = None) -> int:
    return memory_stats(device)["allocated_bytes.all.current"]


def max_memory_allocated(device: Any = None) -> int:
    return memory_stats(device)["allocated_bytes.all.peak"]


def memory_reserved(device: Any = None) -> int:
    return memory_stats(device)["reserved_bytes.all.current"]


def max_memory_reserved(device: Any = None) -> int:
    return memory_stats(device)["reserved_bytes.all.peak"]


def reset_peak_memory_stats(device: Any = None) -> None:
    _C.reset_peak(_index(device))


def reset_accumulated_memory_stats(device: Any = None) -> None:
    _C.reset_accumulated(_index(device))


def reset_max_memory_allocated(device: Any = None) -> None:
    _C.reset_peak(_index(device))


def is_bf16_supported(including_emulation: bool = True) -> bool:
    return get_device_capability() >= (8, 0) or including_emulation


def empty_cache() -> None:
    _C.empty_cache()


def manual_seed(seed: int) -> None:
    _C.default_generator(current_device()).manual_seed(seed)


def manual_seed_all(seed: int) -> None:
    for i in range(device_count()):
        _C.default_generator(i).manual_seed(seed)


def seed() -> None:
    _C.default_generator(current_device()).seed()


def initial_seed() -> int:
    return int(_C.default_generator(current_device()).initial_seed())


def get_rng_state(device: Any = None) -> torch.Tensor:
    return _C.default_generator(_index(device)).get_state()


def set_rng_state(state: torch.Tensor, device: Any = None) -> None:
    _C.default_generator(_index(device)).set_state(state)


def get_amp_supported_dtype() -> list[torch.dtype]:
    return [torch.float16, torch.bfloat16, torch.float32]
