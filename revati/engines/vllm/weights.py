"""A model folder without weights: values do not matter on a virtual GPU, so their shapes are enough."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

log = logging.getLogger("vllm.revati")  # beside vLLM's own lines
_WEIGHTS = ("*.safetensors", "*.bin", "*.pt", "*.pth", "*.gguf")
"""What vLLM's loaders look for (`vllm/model_executor/model_loader/default_loader.py`)."""


def without_weights(model: str) -> bool:
    """Whether `model` is a folder that holds no file of weights; an id of the hub is none."""
    folder = Path(model)
    return folder.is_dir() and not any(next(folder.glob(pattern), None) for pattern in _WEIGHTS)


def choose_load_format(vllm_config: Any) -> None:
    """Let vLLM make up weights (`--load-format dummy`) where the user chose no format and there are none."""
    load, model = vllm_config.load_config, vllm_config.model_config
    if model is not None and load.load_format == "auto" and without_weights(model.model):
        load.load_format = "dummy"
        log.info("%s has no weights: loaded as with --load-format dummy", model.model)
