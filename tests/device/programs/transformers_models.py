"""Unmodified Hugging Face models of real sizes on the virtual GPU; prints one JSON line a case.

    transformers_models.py CASE...

A case is `run:MODEL` (forward and generate on one GPU), `split:MODEL` (the same over two GPUs, divided by
hand) or `train:` (one AdamW step of a 1B Llama). The identity comes from the environment, as for any program.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from typing import Any

import torch

IDENTITY = "cuda" if os.environ.get("REVATI_IDENTITY") == "cuda" else "revati"
if IDENTITY == "revati":
    import revati

    revati.init(gpu="h100_sxm", count=2, latency="roofline")

from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig  # noqa: E402

from revati.models.catalogue import find_model  # noqa: E402

GPU = getattr(torch, IDENTITY)
PROMPT, NEW_TOKENS = 64, 8


def peak_rss_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def build(model: str, device: str) -> Any:
    """MODEL with random weights in bfloat16, made on `device`."""
    entry = find_model(model)
    assert entry is not None, model
    with torch.device(device):
        return AutoModelForCausalLM.from_config(
            AutoConfig.from_pretrained(entry.folder), dtype=torch.bfloat16
        )


def answer(model: Any, device: str) -> dict[str, Any]:
    """Forward and greedy generation of two prompts."""
    ids = torch.arange(2 * PROMPT, device=device).reshape(2, PROMPT)
    with torch.no_grad():
        logits = model(ids).logits
        tokens = model.generate(ids, max_new_tokens=NEW_TOKENS, do_sample=False)
    return {
        "logits": list(logits.shape),
        "device": str(logits.device),
        "tokens": list(tokens.shape),
        "prompt_kept": bool((tokens[:, :PROMPT].cpu() == ids.cpu()).all()),
        "vocab": model.config.vocab_size,
    }


def describe(model: Any) -> dict[str, Any]:
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "devices": sorted({str(p.device) for p in model.parameters()}),
        "allocated_bytes": [GPU.memory_allocated(i) for i in range(GPU.device_count())],
    }


def run(name: str) -> dict[str, Any]:
    device = f"{IDENTITY}:0"
    model = build(name, device)
    return describe(model) | answer(model, device)


def split(name: str) -> dict[str, Any]:
    """Half of the layers on each GPU: the weights are made on `meta`, then take their place."""
    first, second = f"{IDENTITY}:0", f"{IDENTITY}:1"
    model = build(name, "meta")
    layers = model.model.layers
    for index, layer in enumerate(layers):
        layer.to_empty(device=first if index < len(layers) // 2 else second)
    model.model.embed_tokens.to_empty(device=first)
    model.model.rotary_emb = type(model.model.rotary_emb)(model.config).to(first)
    model.model.norm.to_empty(device=second)
    model.lm_head.to_empty(device=second)
    for layer in layers[len(layers) // 2 :]:
        _stay_on(second, layer)
    return describe(model) | answer(model, first)


def _stay_on(device: str, layer: Any) -> None:
    """Move what `layer` gets to `device` first, as the hooks of accelerate's device maps do."""

    def move(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return value.to(device)
        return type(value)(move(v) for v in value) if isinstance(value, (tuple, list)) else value

    def before(module: Any, args: Any, kwargs: Any) -> Any:
        return move(args), {key: move(value) for key, value in kwargs.items()}

    layer.register_forward_pre_hook(before, with_kwargs=True)


def train(_: str) -> dict[str, Any]:
    """One AdamW step of a Llama with about a billion parameters (Llama-3.2-1B's shape)."""
    config = LlamaConfig(
        hidden_size=2048,
        intermediate_size=8192,
        num_hidden_layers=16,
        num_attention_heads=32,
        num_key_value_heads=8,
        vocab_size=128256,
        tie_word_embeddings=True,
    )
    device = f"{IDENTITY}:0"
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4)
    ids = torch.arange(4 * 512, device=device).reshape(4, 512)
    before = GPU.memory_allocated(0)
    loss = model(ids, labels=ids).loss
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimiser.step()
    return describe(model) | {
        "gradients": sum(p.grad is not None for p in model.parameters()),
        "tensors": sum(1 for _ in model.parameters()),
        "state": len(optimiser.state),
        "grown_bytes": GPU.memory_allocated(0) - before,
        "loss": list(loss.shape),
    }


if __name__ == "__main__":
    torch.manual_seed(0)
    started = time.monotonic()
    for argument in sys.argv[1:]:
        case, _, name = argument.partition(":")
        result = {"run": run, "split": split, "train": train}[case](name)
        GPU.synchronize()
        result |= {"peak_rss_bytes": peak_rss_bytes(), "seconds": round(time.monotonic() - started, 1)}
        print(json.dumps({"case": argument} | result), flush=True)
