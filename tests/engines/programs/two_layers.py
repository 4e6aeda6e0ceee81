"""Generates a few tokens with a small version of a model; prints what the virtual GPU ran.

`python two_layers.py CASE.json`: `engine` (arguments of `vllm.LLM`), `tokens`, and `lora` (make an adapter
of rank 16 for a Llama of two layers and use it).
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"


def _adapter(folder: Path) -> str:
    import torch
    from safetensors.torch import save_file

    folder.mkdir()
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": 16,
        "lora_alpha": 32,
        "target_modules": ["q_proj", "v_proj"],
        "bias": "none",
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))
    tensors = {}
    for layer in range(2):
        for name, rows in (("q_proj", 4096), ("v_proj", 1024)):
            key = f"base_model.model.model.layers.{layer}.self_attn.{name}"
            tensors[f"{key}.lora_A.weight"] = torch.zeros(16, 4096, dtype=torch.bfloat16)
            tensors[f"{key}.lora_B.weight"] = torch.zeros(rows, 16, dtype=torch.bfloat16)
    save_file(tensors, folder / "adapter_model.safetensors")
    return str(folder)


def main(path: Path) -> None:
    """Run the case."""
    from vllm import LLM, SamplingParams

    from revati import _C

    case: dict[str, Any] = json.loads(path.read_text())
    extra: dict[str, Any] = {}
    if case.get("lora"):
        from vllm.lora.request import LoRARequest

        extra["lora_request"] = LoRARequest("adapter", 1, _adapter(path.parent / "adapter"))
    llm = LLM(
        **case["engine"],
        load_format="dummy",
        max_model_len=1024,
        max_num_seqs=8,
        num_gpu_blocks_override=200,
        compilation_config={"cudagraph_capture_sizes": [1, 2, 4, 8]},
    )
    _C.reset_stats()
    prompts = [{"prompt_token_ids": [7, 8, 9, 10] * 40} for _ in range(3)]
    sampling = SamplingParams(max_tokens=case["tokens"], ignore_eos=True, temperature=0)
    outputs = llm.generate(prompts, sampling, use_tqdm=False, **extra)
    ops: dict[str, list[Any]] = {}
    for name, family, confidence, _shapes, count, _ns in _C.op_stats():
        entry = ops.setdefault(name, [family, [], 0])
        entry[1] = sorted({*entry[1], confidence})
        entry[2] += count
    tokens = [len(o.outputs[0].token_ids) for o in outputs]
    texts = [o.outputs[0].text for o in outputs]
    print("RESULT " + json.dumps({"tokens": tokens, "texts": texts, "ops": ops}), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
