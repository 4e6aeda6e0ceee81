"""vLLM's CUDA platform with its own answers, which the virtual NVML gives (`revati.cuda.nvml`)."""

from __future__ import annotations

from typing import Any

from vllm.platforms.cuda import NvmlCudaPlatform

from revati.engines.vllm import folding, patches, token_id, weights


class VirtualCudaPlatform(NvmlCudaPlatform):
    """As on a machine with GPUs: what asks NVML does not initialise CUDA, so that vLLM may fork."""

    @classmethod
    def check_and_update_config(cls, vllm_config: Any) -> None:
        super().check_and_update_config(vllm_config)
        patches.apply()
        weights.choose_load_format(vllm_config)
        token_id.choose(vllm_config)
        if folding.enabled():
            folding.choose_executor(vllm_config.parallel_config)

    @classmethod
    def log_warnings(cls) -> None:
        return None
