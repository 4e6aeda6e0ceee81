"""NVML for Python programs: what `pynvml` (nvidia-ml-py, or an engine's copy of it) hears of virtual GPUs.

pynvml's own wrappers stay; they call the C functions through the module's `nvmlLib`, which is an object of
this file instead of libnvidia-ml.so.1. Answers come from the GPU spec. A function that is not here raises
NVMLError_FunctionNotFound, as it does on drivers that are too old for it.
"""

from __future__ import annotations

import ctypes
import functools
import os
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from revati.spec import GpuSpec

MODULES = ("pynvml", "vllm.third_party.pynvml")
SUCCESS, INVALID_ARGUMENT, NOT_FOUND, NOT_SUPPORTED = 0, 2, 6, 3
_TOPOLOGY_NODE = 40  # NVML_TOPOLOGY_NODE: same NUMA node
_CLOCK_MEMORY = 2
_P2P_NVLINK, _P2P_NOT_SUPPORTED = 2, 5  # NVML_P2P_CAPS_INDEX_NVLINK, NVML_P2P_STATUS_NOT_SUPPORTED
_NVLINK_LINKS = 18


def install(module: ModuleType) -> None:
    """Give `module` the virtual library. Runs after the module has been imported."""
    from revati.cuda import ledger

    ledger.replace(
        module, "nvmlLib", VirtualNvml(), why="there is no driver to ask: the GPU spec answers", until="never"
    )


def _put(out: Any, value: Any) -> int:
    """Store `value` where a `byref(...)` argument points."""
    out._obj.value = value
    return SUCCESS


def _write(buffer: Any, text: str) -> int:
    buffer.value = text.encode()
    return SUCCESS


def _index(handle: Any) -> int:
    return int(ctypes.cast(handle, ctypes.c_void_p).value or 0) - 1


class VirtualNvml:
    """The C functions of libnvidia-ml, by name. They take ctypes values and return an NVML status."""

    @functools.cached_property
    def spec(self) -> GpuSpec:
        from revati.spec import load_spec

        return load_spec(os.environ.get("REVATI_GPU", "h100_sxm"))

    @functools.cached_property
    def count(self) -> int:
        return int(os.environ.get("REVATI_GPUS", "1"))

    # ------------------------------------------------------------------ system
    def nvmlInitWithFlags(self, flags: Any) -> int:
        return SUCCESS

    def nvmlInit_v2(self) -> int:
        return SUCCESS

    def nvmlShutdown(self) -> int:
        return SUCCESS

    def nvmlErrorString(self, code: Any) -> bytes:
        return f"virtual GPU: NVML status {int(code)}".encode()

    def nvmlSystemGetDriverVersion(self, buffer: Any, size: Any) -> int:
        return _write(buffer, self.spec.driver_version)

    def nvmlSystemGetNVMLVersion(self, buffer: Any, size: Any) -> int:
        return _write(buffer, f"13.{self.spec.driver_version}")

    def nvmlSystemGetCudaDriverVersion(self, out: Any) -> int:
        return _put(out, 13000)

    nvmlSystemGetCudaDriverVersion_v2 = nvmlSystemGetCudaDriverVersion

    # ------------------------------------------------------------------ handles
    def nvmlDeviceGetCount_v2(self, out: Any) -> int:
        return _put(out, self.count)

    def nvmlDeviceGetHandleByIndex_v2(self, index: Any, out: Any) -> int:
        index = int(getattr(index, "value", index))
        if not 0 <= index < self.count:
            return INVALID_ARGUMENT
        ctypes.c_void_p.from_buffer(out._obj).value = index + 1
        return SUCCESS

    def nvmlDeviceGetHandleByUUID(self, uuid: Any, out: Any) -> int:
        wanted = (getattr(uuid, "value", uuid) or b"").decode()
        known = [self._uuid(i) for i in range(self.count)]
        return self.nvmlDeviceGetHandleByIndex_v2(known.index(wanted), out) if wanted in known else NOT_FOUND

    def nvmlDeviceGetHandleByPciBusId_v2(self, bus_id: Any, out: Any) -> int:
        wanted = (getattr(bus_id, "value", bus_id) or b"").decode().lower()
        known = [self._bus_id(i).lower() for i in range(self.count)]
        return self.nvmlDeviceGetHandleByIndex_v2(known.index(wanted), out) if wanted in known else NOT_FOUND

    def nvmlDeviceGetIndex(self, handle: Any, out: Any) -> int:
        return _put(out, _index(handle))

    nvmlDeviceGetMinorNumber = nvmlDeviceGetIndex

    def _uuid(self, index: int) -> str:
        from revati.cuda.bindings import device_properties

        return str(device_properties(index).uuid)

    def _bus_id(self, index: int) -> str:
        return f"00000000:{index:02X}:00.0"

    def nvmlDeviceGetUUID(self, handle: Any, buffer: Any, size: Any) -> int:
        return _write(buffer, self._uuid(_index(handle)))

    def nvmlDeviceGetPciInfo_v3(self, handle: Any, out: Any) -> int:
        info, index = out._obj, _index(handle)
        info.domain, info.bus, info.device = 0, index, 0
        info.busId = self._bus_id(index).encode()
        info.busIdLegacy = self._bus_id(index)[4:].encode()
        return SUCCESS

    # ------------------------------------------------------------------ what the card is
    def nvmlDeviceGetName(self, handle: Any, buffer: Any, size: Any) -> int:
        return _write(buffer, self.spec.name)

    def nvmlDeviceGetCudaComputeCapability(self, handle: Any, major: Any, minor: Any) -> int:
        _put(major, self.spec.compute_capability[0])
        return _put(minor, self.spec.compute_capability[1])

    def nvmlDeviceGetMemoryBusWidth(self, handle: Any, out: Any) -> int:
        return _put(out, self.spec.memory_bus_bits)

    def nvmlDeviceGetMaxClockInfo(self, handle: Any, kind: Any, out: Any) -> int:
        hz = (
            self.spec.memory_clock_hz
            if int(getattr(kind, "value", kind)) == _CLOCK_MEMORY
            else self.spec.sm_clock_hz
        )
        return _put(out, int(hz / 1e6))

    nvmlDeviceGetClockInfo = nvmlDeviceGetMaxClockInfo

    def nvmlDeviceGetPersistenceMode(self, handle: Any, out: Any) -> int:
        return _put(out, 1)

    def nvmlDeviceGetComputeMode(self, handle: Any, out: Any) -> int:
        return _put(out, 0)

    def nvmlDeviceGetMigMode(self, handle: Any, current: Any, pending: Any) -> int:
        _put(current, 0)
        return _put(pending, 0)

    # ------------------------------------------------------------------ its state, as this process sees it
    def _memory(self, handle: Any) -> tuple[int, int]:
        if "torch" not in sys.modules:  # the backend cannot be loaded, and nothing has been allocated
            return self.spec.memory_bytes, self.spec.memory_bytes
        from revati import _C

        free, total = _C.memory_info(_index(handle))
        return free, total

    def nvmlDeviceGetMemoryInfo(self, handle: Any, out: Any) -> int:
        free, total = self._memory(handle)
        out._obj.total, out._obj.free, out._obj.used = total, free, total - free
        return SUCCESS

    def nvmlDeviceGetMemoryInfo_v2(self, handle: Any, out: Any) -> int:
        out._obj.reserved = 0
        return self.nvmlDeviceGetMemoryInfo(handle, out)

    def nvmlDeviceGetUtilizationRates(self, handle: Any, out: Any) -> int:
        out._obj.gpu = out._obj.memory = 0
        return SUCCESS

    def nvmlDeviceGetComputeRunningProcesses_v3(self, handle: Any, count: Any, infos: Any) -> int:
        return _put(count, 0)

    # ------------------------------------------------------------------ how the cards are connected
    def nvmlDeviceGetP2PStatus(self, one: Any, other: Any, kind: Any, out: Any) -> int:
        possible = self.spec.nvlink_bytes_per_s > 0 or int(getattr(kind, "value", kind)) != _P2P_NVLINK
        return _put(out, 0 if possible else _P2P_NOT_SUPPORTED)

    def nvmlDeviceGetTopologyCommonAncestor(self, one: Any, other: Any, out: Any) -> int:
        return _put(out, _TOPOLOGY_NODE)

    def nvmlDeviceGetNvLinkState(self, handle: Any, link: Any, out: Any) -> int:
        has = self.spec.nvlink_bytes_per_s > 0 and int(getattr(link, "value", link)) < _NVLINK_LINKS
        return _put(out, 1) if has else NOT_SUPPORTED
