"""vLLM's CUDA platform, answering from the GPU spec instead of NVML; the rest is vLLM's own choice."""

from __future__ import annotations

import os
from typing import Any

import torch
from vllm.platforms.cuda import CudaPlatformBase
from vllm.platforms.interface import DeviceCapability

from revati.engines.vllm import folding, patches


class VirtualCudaPlatform(CudaPlatformBase):
    """What `NvmlCudaPlatform` is on a machine with GPUs."""

    @classmethod
    def check_and_update_config(cls, vllm_config: Any) -> None:
        super().check_and_update_config(vllm_config)
        patches.apply()
        if folding.enabled():
            folding.choose_executor(vllm_config.parallel_config)

    @classmethod
    def get_device_capability(cls, device_id: int = 0) -> DeviceCapability:
        return DeviceCapability(*torch.cuda.get_device_capability(device_id))

    @classmethod
    def get_device_name(cls, device_id: int = 0) -> str:
        return str(torch.cuda.get_device_name(device_id))

    @classmethod
    def get_device_uuid(cls, device_id: int = 0) -> str:
        return str(torch.cuda.get_device_properties(device_id).uuid)

    @classmethod
    def get_device_total_memory(cls, device_id: int = 0) -> int:
        return int(torch.cuda.get_device_properties(device_id).total_memory)

    @classmethod
    def is_fully_connected(cls, physical_device_ids: list[int]) -> bool:
        from revati.spec import load_spec

        return load_spec(os.environ["REVATI_GPU"]).nvlink_bytes_per_s > 0

    @classmethod
    def device_control_id_to_physical_device_id(cls, device_id: str) -> int:
        return int(device_id)

    @classmethod
    def log_warnings(cls) -> None:
        return None
