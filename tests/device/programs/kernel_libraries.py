"""Loads every GPU kernel library of the installed vLLM, and prints what became of their ops as JSON.

Runs under the cuda identity with the link stubs on LD_LIBRARY_PATH.
"""

from __future__ import annotations

import ctypes
import importlib.util
import json
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

import revati
from revati import _C
from revati.cuda import libraries

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


def main() -> None:
    spec = importlib.util.find_spec("vllm")
    assert spec is not None and spec.origin is not None
    root = Path(spec.origin).parent
    loaded: dict[str, Any] = {}
    for path in sorted(root.rglob("*.so")):
        before = op_names()
        load(path, root)
        fresh = op_names() - before
        on_device = sorted(op for op in fresh if torch._C._dispatch_has_kernel_for_dispatch_key(op, "CUDA"))
        loaded[path.name] = {"ops": sorted(fresh), "on_device": on_device}
    on_device = [op for library in loaded.values() for op in library["on_device"]]
    after_loading = stub_calls()
    launches = {op: launches_of(op) for op in on_device}
    properties = torch.cuda.get_device_properties(0)
    report = {
        "libraries": loaded,
        "ours": [op for op in on_device if is_ours(op)],
        "taken": libraries.TAKEN,
        "launches": launches,
        "stub_calls": {"loading": after_loading, "calls": stub_calls()},
        "answers": {
            "sm_count": [
                torch.ops._C_cuda_utils.get_device_attribute(16, 0),
                properties.multi_processor_count,
            ],
            "shared_memory": [
                torch.ops._C_cuda_utils.get_max_shared_memory_per_block_device_attribute(0),
                properties.shared_memory_per_block_optin,
            ],
            "deep_gemm": [torch.ops.deep_gemm.get_num_sms(), properties.multi_processor_count],
        },
    }
    print(json.dumps(report), flush=True)


if __name__ == "__main__":
    main()
