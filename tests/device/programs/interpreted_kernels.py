"""Runs vLLM's own Triton kernels in Triton's interpreter: cases come in as JSON, what was written goes out.

The source is read from the installed vLLM; nothing of vLLM is imported, for it wants a GPU for that.
"""

from __future__ import annotations

import os

os.environ["TRITON_INTERPRET"] = "1"

import ast
import importlib.util
import json
import sys
from functools import cache
from pathlib import Path
from typing import Any

import torch
import triton
import triton.language as tl

ROOM = Path(str(importlib.util.find_spec("vllm").origin)).parent / "v1/worker/gpu"  # type: ignore[union-attr]


@cache
def functions_of(file: str) -> dict[str, Any]:
    """The kernels of one file, and the names that their modules would give them."""
    path = ROOM / file
    wanted = [
        node
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.FunctionDef) and any("jit" in ast.dump(d) for d in node.decorator_list)
    ]
    names: dict[str, Any] = {"triton": triton, "tl": tl, "torch": torch}
    exec(compile(ast.Module(wanted, []), str(path), "exec"), names)
    return names


def tensor_of(value: dict[str, Any], keep: list[torch.Tensor]) -> torch.Tensor:
    """A tensor of a case; `pointers_of`: the addresses of further ones, which `keep` holds."""
    if "pointers_of" in value:
        rows = [torch.tensor(row, dtype=torch.int32) for row in value["pointers_of"]]
        keep += rows
        return torch.tensor([row.data_ptr() for row in rows], dtype=torch.int64)
    return torch.tensor(value["values"], dtype=getattr(torch, value["dtype"]))


def run(case: dict[str, Any]) -> dict[str, Any]:
    """What the tensors of a case hold afterwards."""
    keep: list[torch.Tensor] = []
    arguments = {k: tensor_of(v, keep) if isinstance(v, dict) else v for k, v in case["arguments"].items()}
    functions_of(case["file"])[case["kernel"]][tuple(case["grid"])](**arguments)
    written = {k: v.tolist() for k, v in arguments.items() if isinstance(v, torch.Tensor)}
    return {**written, "behind pointers": [tensor.tolist() for tensor in keep]}


json.dump([run(case) for case in json.load(sys.stdin)], sys.stdout)
