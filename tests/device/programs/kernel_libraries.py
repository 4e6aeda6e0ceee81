"""Loads every GPU kernel library of the installed vLLM and prints, as JSON, what it found.

Without an identity: which device ops each library registers. Under the cuda identity: what became of the ops
that it is given on its input. Needs the link stubs on LD_LIBRARY_PATH.
"""

from __future__ import annotations

import ctypes
import importlib.util
import json
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

import revati
from revati import _C

STUBS = ("libcuda.so.1", "libtorch_cuda.so", "libc10_cuda.so")


def stub_calls() -> dict[str, int]:
    """Calls into each link stub so far."""
    found = {}
    for name in STUBS:
        stub = ctypes.CDLL(str(Path(revati.__file__).parent / "native" / "stubs" / name))
        stub.revati_stub_calls.restype = ctypes.c_ulong
        found[name] = stub.revati_stub_calls()
    return found


def op_names() -> set[str]:
    return set(torch._C._dispatch_get_all_op_names())


def load(path: Path, root: Path) -> None:
    """As vLLM does: by an import of the extension, or of the package that loads it as an op library."""
    if path.parent.name == "deep_gemm":
        import_module("vllm.third_party.deep_gemm")
    else:
        folder = path.parent.relative_to(root.parent)
        import_module(".".join((*folder.parts, path.name.partition(".")[0])))


def is_ours(op: str) -> bool:
    """Whether the device kernel of `op` is the virtual GPU's, by the dispatcher's own table."""
    lines = [line for line in torch._C._dispatch_dump(op).splitlines() if line.startswith("CUDA")]
    return any("dispatch/registration.cpp" in line for line in lines)


def argument(schema: Any) -> Any:
    """Something that fits an argument of a schema: an op without results may look at nothing but its kind."""
    kind = str(schema.type)
    if schema.has_default_value():
        return schema.default_value
    if kind.startswith("Optional"):
        return None
    one: dict[str, Any] = {
        "Tensor": torch.empty(2, 2, device="cuda"),
        "int": 1,
        "float": 1.0,
        "bool": False,
        "str": "auto",
        "number": 1.0,
    }
    return [one[kind[len("List[") : -1]]] if kind.startswith("List[") else one[kind]


def launches_of(name: str) -> int | None:
    """Launches that a call of op `name` records; None for ops with results: their rules want real inputs."""
    schema = torch._C._get_schema(*name.partition(".")[::2])
    if schema.returns:
        return None
    namespace, op = schema.name.split("::")
    positional = [argument(a) for a in schema.arguments if not a.kwarg_only]
    keyword = {a.name: argument(a) for a in schema.arguments if a.kwarg_only}
    before = _C.launches()
    getattr(getattr(torch.ops, namespace), op)(*positional, **keyword)
    return _C.launches() - before


def root_of_vllm() -> Path:
    spec = importlib.util.find_spec("vllm")
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).parent


def registered() -> dict[str, list[str]]:
    """Ops with a CUDA kernel that each library registers, in a process where nobody takes them over."""
    found = {}
    for path in sorted(root_of_vllm().rglob("*.so")):
        before = op_names()
        torch.ops.load_library(str(path))
        fresh = sorted(op_names() - before)
        found[path.name] = [op for op in fresh if torch._C._dispatch_has_kernel_for_dispatch_key(op, "CUDA")]
    return found


def taken(ops: list[str]) -> dict[str, Any]:
    """What becomes of these ops under the cuda identity, once vLLM has loaded all its libraries."""
    from vllm.platforms import current_platform

    assert current_platform.is_cuda()  # lets vLLM find its plug-ins, as any program that imports vllm does
    for path in sorted(root_of_vllm().rglob("*.so")):
        load(path, root_of_vllm())
    after_loading = stub_calls()
    launches = {op: launches_of(op) for op in ops}
    properties = torch.cuda.get_device_properties(0)
    asked = torch.ops._C_cuda_utils
    return {
        "ours": [op for op in ops if is_ours(op)],
        "launches": launches,
        "stub_calls": {"loading": after_loading, "calls": stub_calls()},
        "answers": {
            "sm_count": [asked.get_device_attribute(16, 0), properties.multi_processor_count],
            "shared_memory": [
                asked.get_max_shared_memory_per_block_device_attribute(0),
                properties.shared_memory_per_block_optin,
            ],
            "deep_gemm": [torch.ops.deep_gemm.get_num_sms(), properties.multi_processor_count],
        },
    }


if __name__ == "__main__":
    print(json.dumps(taken(json.load(sys.stdin)) if torch.cuda.is_available() else registered()), flush=True)
