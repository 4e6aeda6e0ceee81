"""`pynvml` under the cuda identity: the GPU spec answers, through pynvml's own wrappers."""

from __future__ import annotations

import pytest
from test_cuda_identity import passes

from revati.cuda import bindings, nvml
from revati.spec import load_spec

pynvml = pytest.importorskip("pynvml", reason="comes with vLLM")
GPUS = ["h100_sxm", "h200_sxm", "a100_sxm", "b200_sxm", "l40s", "rtx4090", "rtx_pro_6000"]


def test_what_engines_ask() -> None:
    passes("""
        import pynvml as nvml
        nvml.nvmlInit()
        assert nvml.nvmlDeviceGetCount() == 2
        one, other = nvml.nvmlDeviceGetHandleByIndex(0), nvml.nvmlDeviceGetHandleByIndex(1)
        assert nvml.nvmlDeviceGetName(one) == "NVIDIA H100 80GB HBM3"
        assert nvml.nvmlDeviceGetCudaComputeCapability(one) == (9, 0)
        uuid = nvml.nvmlDeviceGetUUID(other)
        assert nvml.nvmlDeviceGetIndex(nvml.nvmlDeviceGetHandleByUUID(uuid)) == 1
        assert nvml.nvmlDeviceGetPciInfo(other).bus == 1
        for kind in (nvml.NVML_P2P_CAPS_INDEX_NVLINK, nvml.NVML_P2P_CAPS_INDEX_WRITE):
            assert nvml.nvmlDeviceGetP2PStatus(one, other, kind) == nvml.NVML_P2P_STATUS_OK
        assert nvml.nvmlDeviceGetNvLinkState(one, 0) == 1
        assert nvml.nvmlSystemGetDriverVersion() and nvml.nvmlSystemGetCudaDriverVersion() == 13000
        assert nvml.nvmlDeviceGetMemoryBusWidth(one) == 5120
        assert nvml.nvmlDeviceGetUtilizationRates(one).gpu == 0
        nvml.nvmlShutdown()
    """)


def test_memory_is_what_torch_says() -> None:
    passes("""
        import pynvml, torch
        pynvml.nvmlInit()
        x = torch.empty(3 << 30, dtype=torch.uint8, device="cuda:1")
        free, total = torch.cuda.mem_get_info(1)
        handle = pynvml.nvmlDeviceGetHandleByIndex(1)
        info = pynvml.nvmlDeviceGetMemoryInfo(handle)
        assert (info.free, info.total, info.used) == (free, total, total - free)
        assert pynvml.nvmlDeviceGetMemoryInfo(handle, version=pynvml.nvmlMemory_v2).free == free
        assert str(torch.cuda.get_device_properties(1).uuid) == pynvml.nvmlDeviceGetUUID(handle)
    """)


def test_what_does_not_exist_is_an_nvml_error() -> None:
    passes("""
        import pynvml
        pynvml.nvmlInit()
        for call in (
            lambda: pynvml.nvmlDeviceGetHandleByIndex(2),
            lambda: pynvml.nvmlDeviceGetHandleByUUID("GPU-none"),
            lambda: pynvml.nvmlDeviceGetFanSpeed(pynvml.nvmlDeviceGetHandleByIndex(0)),
        ):
            try:
                call()
            except pynvml.NVMLError:
                continue
            raise AssertionError("no error")
    """)


@pytest.mark.parametrize("gpu", GPUS)
def test_torch_and_nvml_answer_from_the_spec(gpu: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REVATI_GPU", gpu)
    monkeypatch.setattr(pynvml, "nvmlLib", nvml.VirtualNvml())
    monkeypatch.setattr(pynvml, "_nvmlGetFunctionPointer_cache", {})
    spec, properties = load_spec(gpu), bindings.device_properties(0)
    card = pynvml.nvmlDeviceGetHandleByIndex(0)
    assert properties.name == pynvml.nvmlDeviceGetName(card) == spec.name
    assert (properties.major, properties.minor) == spec.compute_capability
    assert pynvml.nvmlDeviceGetCudaComputeCapability(card) == spec.compute_capability
    assert properties.total_memory == spec.memory_bytes
    assert properties.multi_processor_count == spec.sm_count and properties.L2_cache_size == spec.l2_bytes
    assert pynvml.nvmlDeviceGetMaxClockInfo(card, pynvml.NVML_CLOCK_SM) == int(spec.sm_clock_hz / 1e6)
    linked = pynvml.nvmlDeviceGetP2PStatus(card, card, pynvml.NVML_P2P_CAPS_INDEX_NVLINK)
    assert (linked == pynvml.NVML_P2P_STATUS_OK) == (spec.nvlink_bytes_per_s > 0)


def test_a_process_on_another_gpu() -> None:
    passes(
        """
        import torch
        assert torch.cuda.get_device_name() == "NVIDIA GeForce RTX 4090"
        assert torch.cuda.get_device_capability() == (8, 9)
        assert torch.cuda.mem_get_info()[1] == torch.cuda.get_device_properties(0).total_memory
        """,
        REVATI_GPU="rtx4090",
    )
