"""Ops of kernel libraries that do not load beside the installed torch: declared from the library's text."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from revati.cli.environment import RunOptions, build_environment
from revati.cuda import declared

SOURCE = """
extern int symbol_of_another_torch(void);
const char *texts[] = {
    "scale_rows(Tensor! result,   Tensor input,\\n float by=1.0) -> ()",
    "twice(Tensor input) -> Tensor",
    "grow(Tensor input, SymInt rows, Tensor? bias) -> Tensor[]",
    "usage: tool(FILE) -> prints what it holds",
    "void f(int) -> nothing",
};
int call(void) { return symbol_of_another_torch() + (int)(long)texts[0]; }
"""


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """An extension module that needs a symbol which no torch has."""
    package = tmp_path / "vllm"
    package.mkdir()
    (package / "__init__.py").write_text("")
    source, built = tmp_path / "kernels.c", package / "_C.abi3.so"
    source.write_text(SOURCE)
    subprocess.run(["gcc", "-shared", "-fPIC", "-Wl,-z,now", "-o", built, source], check=True)
    return built


def test_the_schemas_in_a_library_are_found_and_nothing_else(library: Path) -> None:
    assert declared.schemas(library) == [
        "scale_rows(Tensor! result, Tensor input, float by=1.0) -> ()",
        "twice(Tensor input) -> Tensor",
        "grow(Tensor input, SymInt rows, Tensor? bias) -> Tensor[]",
    ]


def test_a_module_that_no_engine_has_named_is_not_declared(library: Path) -> None:
    assert not declared.declare("vllm._C", library)
    assert not hasattr(torch.ops._C, "scale_rows")


def test_declared_ops_are_launched_on_the_virtual_gpu(library: Path, tmp_path: Path) -> None:
    """In a process of a run: the module can be imported, its ops are kernels, in each of its namespaces."""
    program = """
import json, torch
from revati.cuda import declared
declared.LIBRARIES["vllm._C"] = ("first", "second")
import vllm._C
from revati import _C
x = torch.ones(4, 8, device="cuda")
before = _C.launches()
torch.ops.first.scale_rows(torch.empty_like(x), x)
torch.ops.second.scale_rows(torch.empty_like(x), x, 2.0)
try:
    torch.ops.first.twice(x)
except RuntimeError as error:
    refused = str(error).splitlines()[0]
print(json.dumps([dir(vllm._C).count("call"), _C.launches() - before, refused]))
"""
    env = build_environment(RunOptions(gpu="h100_sxm", latency="roofline"), tmp_path)
    env["PYTHONPATH"] = f"{env['PYTHONPATH']}:{library.parents[1]}"
    done = subprocess.run(
        [sys.executable, "-c", program], env=env, cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr[-2000:]
    functions, launches, refused = json.loads(done.stdout.splitlines()[-1])
    assert (functions, launches) == (0, 2)
    assert "first::twice" in refused and "no shape rule" in refused


def test_the_texts_of_vllms_own_library_are_what_it_registers(tmp_path: Path) -> None:
    """The installed vLLM's library loads: what it registers with a schema must be what its text says."""
    vllm = pytest.importorskip("vllm", reason="a library that does load, to compare with")
    path = Path(str(vllm.__file__)).parent / "_moe_C_stable_libtorch.abi3.so"
    program = """
import json, sys, torch
from revati.cuda import libraries
libraries.note_known()
before = set(torch._C._dispatch_get_all_op_names())
torch.ops.load_library(sys.argv[1])
names = sorted(set(torch._C._dispatch_get_all_op_names()) - before)
print(json.dumps({n: str(getattr(getattr(torch.ops, n.split("::")[0]), n.split("::")[1]).default._schema)
    for n in names}))
"""
    env = build_environment(RunOptions(gpu="h100_sxm", latency="roofline"), tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", program, str(path)], env=env, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr[-2000:]
    registered = json.loads(done.stdout.splitlines()[-1])
    texts = {str(torch._C.parse_schema(text)) for text in declared.schemas(path)}
    assert len(registered) > 10
    assert {schema.partition("::")[2] for schema in registered.values()} <= texts
