"""Triton on the virtual GPU: a driver that is always there; launches are recorded instead of compiled.

A launch becomes the op `triton::<kernel>` with its tensors and scalars. Kernels whose results steer the host
(slot mappings, positions, request tables) run their host twin from `HOST_KERNELS` on live memory; all others
only cost time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

LAUNCHER_NS = 12_000
"""Host time of Triton's own launcher (binding, specialisation, cache key) without the driver's; estimated."""

HOST_KERNELS: dict[str, Any] = {}
"""By the kernel's name: a function of (arguments by name, grid), or a native twin."""


def host_kernel(
    name: str,
) -> Callable[[Callable[[dict[str, Any], tuple[int, ...]], None]], Callable[..., None]]:
    """Register the host semantics of the Triton kernel `name`: called with (arguments by name, grid)."""

    def register(function: Callable[[dict[str, Any], tuple[int, ...]], None]) -> Callable[..., None]:
        HOST_KERNELS[name] = function
        return function

    return register


def install() -> None:
    """Activate the virtual driver and replace kernel launches. Called once, when triton has been imported."""
    from triton.backends import backends
    from triton.runtime import autotuner, driver, jit

    from revati.cuda import ledger

    why = "there is no GPU to compile for: a launch is recorded and priced"
    virtual = _driver()
    driver.set_active(virtual)
    driver._default = virtual
    nvidia = backends.get("nvidia")
    if nvidia is not None:
        ledger.replace(
            nvidia.driver,
            "is_active",
            staticmethod(lambda: True),
            why="engines count active drivers",
            until="never",
        )
    for name, backend in backends.items():
        if name != "nvidia":
            ledger.replace(
                backend.driver,
                "is_active",
                staticmethod(lambda: False),
                why="engines want exactly one driver",
                until="never",
            )
    ledger.replace(jit.JITFunction, "run", _run, why=why, until="never")
    ledger.replace(jit.JITFunction, "warmup", lambda self, *a, **k: None, why=why, until="never")
    ledger.replace(autotuner.Autotuner, "run", _run_tuned, why="tuning measures real kernels", until="never")
    ledger.replace(autotuner.Heuristics, "run", _run_heuristics, why=why, until="never")


def _driver() -> Any:
    from triton.backends.driver import DriverBase

    class VirtualDriver(DriverBase):
        """What triton asks of a driver, answered from the GPU spec."""

        @classmethod
        def is_active(cls) -> bool:
            return True

        def map_python_to_cpp_type(self, ty: str) -> str:
            return "void*"

        def get_current_target(self) -> Any:
            import torch
            from triton.backends.compiler import GPUTarget

            major, minor = torch.cuda.get_device_capability()
            return GPUTarget("cuda", major * 10 + minor, 32)

        def get_active_torch_device(self) -> Any:
            import torch

            return torch.device("cuda", torch.cuda.current_device())

        def get_device_interface(self) -> Any:
            import torch

            return torch.cuda

        def get_current_device(self) -> int:
            import torch

            return torch.cuda.current_device()

        def set_current_device(self, device: int) -> None:
            import torch

            torch.cuda.set_device(device)

        def get_current_stream(self, device: int | None = None) -> int:
            import torch

            return torch.cuda.current_stream(device).cuda_stream

        def get_benchmarker(self) -> Any:
            from triton.testing import do_bench

            return do_bench

        def get_empty_cache_for_benchmark(self) -> Any:
            import torch

            return torch.empty(1, dtype=torch.int, device="cuda")

        def clear_cache(self, cache: Any) -> None:
            return None

        class utils:
            @staticmethod
            def get_device_properties(device: int) -> dict[str, int]:
                import torch

                p: Any = torch.cuda.get_device_properties(device)
                return {
                    "max_shared_mem": p.shared_memory_per_block_optin,
                    "multiprocessor_count": p.multi_processor_count,
                    "warpSize": p.warp_size,
                    "max_num_regs": p.regs_per_multiprocessor,
                    "sm_clock_rate": p.clock_rate,
                    "mem_clock_rate": p.memory_clock_rate,
                    "mem_bus_width": p.memory_bus_width,
                }

    return VirtualDriver.__new__(VirtualDriver)


def _run(self: Any, *args: Any, grid: Any = None, warmup: bool = False, **kwargs: Any) -> None:
    if not warmup:
        _known(self).launch(args, kwargs, grid, LAUNCHER_NS)


def _known(function: Any) -> Any:
    """The native side of a kernel: it binds a launch, runs the host twin if there is one, and records it."""
    known = function.__dict__.get("_revati_kernel")
    if known is None:
        from revati import _C

        name = function.fn.__name__
        defaults = {p.name: p.default for p in function.params if p.has_default}
        known = function._revati_kernel = _C.Kernel(
            f"triton::{name}", list(function.arg_names), defaults, HOST_KERNELS.get(name)
        )
    return known


def _run_tuned(self: Any, *args: Any, **kwargs: Any) -> Any:
    config = self.configs[0] if self.configs else None
    if config is not None:
        kwargs = (
            {**config.all_kwargs(), **kwargs}
            if hasattr(config, "all_kwargs")
            else {**config.kwargs, **kwargs}
        )
    return self.fn.run(*args, **kwargs)


def _run_heuristics(self: Any, *args: Any, **kwargs: Any) -> Any:
    named = {**dict(zip(self.arg_names, args, strict=False)), **kwargs}
    for key, heuristic in self.values.items():
        kwargs[key] = heuristic(named)
    return self.fn.run(*args, **kwargs)
