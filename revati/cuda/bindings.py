"""The functions and classes that `torch.cuda` expects of a CUDA build of torch, over the virtual GPU.

`torch.cuda`'s own Python code stays as it is: streams, events, graphs and memory statistics run PyTorch's
classes on top of what is put into `torch._C` here. Names and signatures follow torch/_C/__init__.pyi.
"""

from __future__ import annotations

import os
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

CUDA_VERSION = "13.0"
_FIRST_STREAM_HANDLE = (
    0x7E0000000000  # a stream's "pointer": recognisable, and never 0 except for the default stream
)


def device_properties(index: int) -> Any:
    """The `torch.cuda.get_device_properties` answer for virtual GPU `index`, from its spec."""
    from revati.spec import load_spec

    spec = load_spec(os.environ.get("REVATI_GPU", "h100_sxm"))
    return Properties(
        name=spec.name,
        major=spec.compute_capability[0],
        minor=spec.compute_capability[1],
        total_memory=spec.memory_bytes,
        multi_processor_count=spec.sm_count,
        is_integrated=0,
        is_multi_gpu_board=0,
        max_threads_per_multi_processor=spec.max_threads_per_sm,
        max_threads_per_block=spec.max_threads_per_block,
        gcnArchName="",
        warp_size=spec.warp_size,
        uuid=f"GPU-00000000-0000-0000-0000-{index:012x}",
        pci_bus_id=index,
        pci_device_id=0,
        pci_domain_id=0,
        L2_cache_size=spec.l2_bytes,
        clock_rate=int(spec.sm_clock_hz / 1e3),
        memory_clock_rate=int(spec.memory_clock_hz / 1e3),
        memory_bus_width=spec.memory_bus_bits,
        shared_memory_per_block=spec.shared_memory_per_block_bytes,
        shared_memory_per_block_optin=spec.shared_memory_per_block_optin_bytes,
        shared_memory_per_multiprocessor=spec.shared_memory_per_sm_bytes,
        regs_per_multiprocessor=spec.regs_per_sm,
    )


class Properties(SimpleNamespace):
    """Stands for `torch._C._CudaDeviceProperties`."""

    def __hash__(self) -> int:  # type: ignore[override]
        return hash((self.name, self.uuid))


def configure_backend(gpu: str, count: int) -> None:
    """Give the backend `count` GPUs of kind `gpu`. Raises UnknownGpuError or ValueError, one line each."""
    from revati import _C
    from revati.spec import load_spec

    if not 1 <= count <= 64:
        raise ValueError(f"revati: {count} GPUs asked for; expected 1 to 64")
    spec = load_spec(gpu)
    _C.configure(
        gpu=gpu,
        name=spec.name,
        count=count,
        major=spec.compute_capability[0],
        minor=spec.compute_capability[1],
        sm_count=spec.sm_count,
        total_bytes=spec.memory_bytes,
        outside_bytes=spec.outside_torch.context_bytes,
        graph_node_bytes=spec.outside_torch.graph_bytes_per_node,
        launch_ns=int(spec.kernel_launch_ns),
        graph_launch_ns=int(spec.graph_launch_ns),
        graph_gap_ns=int(spec.graph_kernel_gap_ns),
        eager_gap_ns=int(spec.graph_kernel_gap_ns),
        compiled_call_ns=int(spec.compiled_call_ns),
    )


def install() -> None:
    """Fill `torch._C` with the CUDA surface. Runs while `torch.cuda` is about to be imported."""
    import torch

    from revati import _C
    from revati.cuda import libraries

    configure_backend(os.environ.get("REVATI_GPU", "h100_sxm"), int(os.environ.get("REVATI_GPUS", "1")))
    C: Any = torch._C
    for name, value in {**_classes(torch, _C), **_functions(torch, _C), **_memory(_C)}.items():
        setattr(C, name, value)
    C._has_cuda = True
    C._cudart = _cudart(_C)
    version: Any = sys.modules["torch.version"]
    version.cuda = CUDA_VERSION
    libraries.note_known()


def _classes(torch: Any, _C: Any) -> dict[str, Any]:
    class _CudaStreamBase(torch.Stream):
        def __new__(cls, priority=0, stream_id=0, device_index=0, device_type=0, stream_ptr=0, **_):  # type: ignore[no-untyped-def]
            if stream_ptr:
                stream_id, device_index, device_type = (
                    stream_ptr - _FIRST_STREAM_HANDLE,
                    _C.current_device(),
                    1,
                )
            if device_type:
                return super().__new__(
                    cls, stream_id=stream_id, device_index=device_index, device_type=device_type
                )
            return super().__new__(cls, device=torch.device("cuda", _C.current_device()), priority=priority)

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            pass

        @property
        def cuda_stream(self) -> int:
            return _FIRST_STREAM_HANDLE + self.stream_id if self.stream_id else 0

        @property
        def priority(self) -> int:
            return _C.priority(self.device_index, self.stream_id)

        @staticmethod
        def priority_range() -> tuple[int, int]:
            return (0, -5)

    class _CudaEventBase(torch.Event):
        def __new__(cls, enable_timing=False, blocking=False, interprocess=False, external=False):  # type: ignore[no-untyped-def]
            return super().__new__(
                cls, device=torch.device("cuda"), enable_timing=enable_timing, blocking=blocking
            )

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            pass

        @property
        def cuda_event(self) -> int:
            return self.event_id

        def elapsed_time(self, other: Any) -> float:
            return _C.elapsed_ms(self.event_id, other.event_id)

        def ipc_handle(self) -> bytes:
            raise RuntimeError("revati: events cannot be shared between processes on a virtual GPU")

    class _MemPool:
        """A private pool; only its id matters to the virtual allocator."""

        def __init__(
            self,
            allocator: Any = None,
            is_user_created: bool = True,
            use_on_oom: bool = False,
            symmetric: bool = False,
            no_split: bool = False,
        ) -> None:
            self.allocator, self.id = allocator, _C.new_pool_id(is_user_created)

        def use_count(self) -> int:
            return 1

    class _cuda_CUDAAllocator:
        pass

    return {
        "_CudaStreamBase": _CudaStreamBase,
        "_CudaEventBase": _CudaEventBase,
        "_CUDAGraph": _C.Graph,
        "_CudaDeviceProperties": Properties,
        "_MemPool": _MemPool,
        "_cuda_CUDAAllocator": _cuda_CUDAAllocator,
    }


def _functions(torch: Any, _C: Any) -> dict[str, Any]:
    def init() -> None:
        if _C.in_bad_fork():
            raise RuntimeError(
                "Cannot re-initialize CUDA in forked subprocess. To use CUDA with multiprocessing, you must "
                "use the 'spawn' start method"
            )
        torch.cuda._get_device_properties = device_properties
        torch.cuda.default_generators = tuple(_C.default_generator(i) for i in range(_C.device_count()))

    def exchange(device: int) -> int:
        old = _C.current_device()
        if device >= 0:
            _C.set_device(device)
        return old if device >= 0 else -1

    def maybe_exchange(device: int) -> int:
        return exchange(device)

    def current_stream(device: int = -1) -> tuple[int, int, int]:
        device = _C.current_device() if device < 0 else device
        return (_C.current_stream(device), device, 1)

    def set_stream(stream_id: int, device_index: int, device_type: int) -> None:
        _C.set_device(device_index)
        _C.exchange_stream(device_index, stream_id)

    def raw_stream(device: int) -> int:
        stream = _C.current_stream(device)
        return _FIRST_STREAM_HANDLE + stream if stream else 0

    def default_stream(device: int) -> tuple[int, int, int]:
        return (0, device, 1)

    def sleep(cycles: int) -> None:
        from revati.spec import load_spec

        hz = load_spec(os.environ.get("REVATI_GPU", "h100_sxm")).sm_clock_hz
        _C.occupy(int(cycles / hz * 1e9), _C.current_device())

    nothing = lambda *args, **kwargs: None  # noqa: E731
    return {
        "_cuda_init": init,
        "_cuda_getDeviceCount": _C.device_count,
        "_cuda_getDevice": _C.current_device,
        "_cuda_setDevice": _C.set_device,
        "_cuda_exchangeDevice": exchange,
        "_cuda_maybeExchangeDevice": maybe_exchange,
        "_cuda_isInBadFork": _C.in_bad_fork,
        "_cuda_hasPrimaryContext": lambda device: True,
        "_cuda_getCurrentStream": current_stream,
        "_cuda_getCurrentRawStream": raw_stream,
        "_cuda_getDefaultStream": default_stream,
        "_cuda_getStreamFromExternal": lambda pointer, device: (
            max(0, pointer - _FIRST_STREAM_HANDLE),
            device,
            1,
        ),
        "_cuda_setStream": set_stream,
        "_cuda_synchronize": lambda: _C.synchronize(_C.current_device()),
        "_cuda_isCurrentStreamCapturing": lambda: _C.capturing(_C.current_device()),
        "_graph_pool_handle": lambda: _C.new_pool_id(True),
        "_cuda_canDeviceAccessPeer": lambda a, b: a != b,
        "_cuda_getArchFlags": lambda: "sm_75 sm_80 sm_86 sm_90 sm_100 sm_120 compute_120",
        "_cuda_getCompiledVersion": lambda: 13000,
        "_cuda_getCurrentBlasHandle": lambda: 0,
        "_cuda_clearCublasWorkspaces": nothing,
        "_cuda_ipc_collect": nothing,
        "_cuda_sleep": sleep,
        "_cuda_set_sync_debug_mode": nothing,
        "_cuda_get_sync_debug_mode": lambda: 0,
        "_cuda_lock_mutex": nothing,
        "_cuda_unlock_mutex": nothing,
        "_cuda_tunableop_is_enabled": lambda: False,
        "_nccl_version": lambda: 2 << 32 | 28 << 16 | 9,
        "_nccl_version_suffix": lambda: b"",
        "_nccl_unique_id": lambda: bytes(128),
    }


def _memory(_C: Any) -> dict[str, Any]:
    nothing = lambda *args, **kwargs: None  # noqa: E731
    outer: list[tuple[int, int]] = []

    def begin(device: int, pool: tuple[int, int]) -> None:
        outer.append(_C.exchange_pool(pool))

    def end(device: int, pool: tuple[int, int]) -> None:
        _C.exchange_pool(outer.pop() if outer else (0, 0))

    return {
        "_cuda_memoryStats": _C.memory_stats,
        "_cuda_resetPeakMemoryStats": _C.reset_peak,
        "_cuda_resetAccumulatedMemoryStats": _C.reset_accumulated,
        "_cuda_emptyCache": _C.empty_cache,
        "_cuda_setMemoryFraction": lambda fraction, device: _C.set_memory_fraction(device, fraction),
        "_cuda_getMemoryFraction": _C.memory_fraction,
        "_cuda_getAllocatorBackend": lambda: "native",
        "_cuda_memorySnapshot": lambda *args: {"segments": [], "device_traces": [], "allocator_settings": {}},
        "_cuda_record_memory_history": nothing,
        "_cuda_isHistoryEnabled": lambda: False,
        "_host_emptyCache": nothing,
        "_cuda_hostMemoryStats": lambda: {},
        "_cuda_resetPeakHostMemoryStats": nothing,
        "_cuda_resetAccumulatedHostMemoryStats": nothing,
        "_cuda_cudaHostAllocator": lambda: 0,
        "_cuda_cudaCachingAllocator_raw_alloc": lambda size, stream: _C.raw_alloc(size, _C.current_device()),
        "_cuda_cudaCachingAllocator_raw_delete": nothing,
        "_cuda_cudaCachingAllocator_enable": nothing,
        "_cuda_cudaCachingAllocator_is_enabled": lambda: True,
        "_cuda_cudaCachingAllocator_set_allocator_settings": nothing,
        "_cuda_beginAllocateToPool": begin,
        "_cuda_beginAllocateCurrentThreadToPool": begin,
        "_cuda_beginAllocateCurrentStreamToPool": begin,
        "_cuda_endAllocateToPool": end,
        "_cuda_endAllocateCurrentStreamToPool": end,
        "_cuda_releasePool": nothing,
        "_cuda_customAllocator": nothing,
        "_cuda_changeCurrentAllocator": nothing,
        "_cuda_checkPoolLiveAllocations": lambda *args: True,
    }


def _cudart(_C: Any) -> ModuleType:
    """Stands for `torch._C._cudart`: the few runtime calls that programs make through torch."""
    import enum

    class cudaError(enum.IntEnum):
        success = 0

    module: Any = ModuleType("torch._C._cudart")
    module.cudaError = cudaError
    module.cudaGetErrorString = lambda code: "no error" if code == 0 else f"error {int(code)}"
    module.cudaMemGetInfo = lambda device: tuple(_C.memory_info(device))
    module.cudaProfilerStart = module.cudaProfilerStop = lambda: cudaError.success
    module.cudaHostRegister = lambda pointer, size, flags: cudaError.success
    module.cudaHostUnregister = lambda pointer: cudaError.success
    module.cudaStreamCreate = lambda pointer: cudaError.success
    module.cudaStreamDestroy = lambda pointer: cudaError.success
    module.cudaOutputMode = SimpleNamespace(KeyValuePair=0, CSV=1)
    return module
