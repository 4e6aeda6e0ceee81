"""Cost of a cached op on the virtual GPU beside an empty boxed kernel, `meta` and FakeTensor: medians.

    python benchmarks/dispatch.py

The custom op and the empty kernel have the same schema and are called the same way, so their ratio is what
the backend adds; mm, add and view go through torch's own, cheaper bindings.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.cpp_extension import load_inline

import revati

SOURCE = """
#include <torch/library.h>
void nothing(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  torch::jit::drop(*stack, op.schema().arguments().size() - 1);
}
TORCH_LIBRARY(revati_bench, m) {
  m.def("empty(Tensor a, Tensor b) -> Tensor");
  m.def("custom(Tensor a, Tensor b) -> Tensor");
}
TORCH_LIBRARY_IMPL(revati_bench, PrivateUse1, m) {
  m.impl("empty", torch::CppFunction::makeFromBoxedFunction<&nothing>());
}
TORCH_LIBRARY_IMPL(revati_bench, Meta, m) {
  m.impl("custom", [](const at::Tensor& a, const at::Tensor& b) { return at::empty_like(a); });
}
"""
ROUNDS, CALLS = 21, 500


def median_ns(call: Callable[[], object]) -> float:
    for _ in range(CALLS):
        call()
    times = []
    for _ in range(ROUNDS):
        start = time.perf_counter_ns()
        for _ in range(CALLS):
            call()
        times.append((time.perf_counter_ns() - start) / CALLS)
    return statistics.median(times)


def calls(x: torch.Tensor) -> dict[str, Callable[[], object]]:
    custom, silu = torch.ops.revati_bench.custom.default, torch.ops.aten.silu.default
    return {
        "mm": lambda: torch.mm(x, x),
        "add": lambda: torch.add(x, x),
        "silu": lambda: silu(x),
        "view": lambda: x.view(32, 128),
        "custom": lambda: custom(x, x),
    }


def replay_ns() -> float:
    from revati import _C

    graph = torch.revati.CUDAGraph()
    with torch.revati.graph(graph):
        for _ in range(500):
            _C.occupy(1000, 0)
    return median_ns(graph.replay)


@torch.no_grad()
def main() -> None:
    load_inline("revati_bench", SOURCE, is_python_module=False, verbose=False)
    revati.init(gpu="h100_sxm", count=1, latency="roofline")
    from revati import _C

    x = torch.empty(64, 64, dtype=torch.bfloat16, device="revati")
    _C.mark_phantom(x)
    empty = torch.ops.revati_bench.empty.default
    floor = median_ns(lambda: empty(x, x))
    device = {name: median_ns(call) for name, call in calls(x).items()}
    meta = {name: median_ns(call) for name, call in calls(x.to("meta")).items()}
    with FakeTensorMode():
        fake = {
            name: median_ns(call) for name, call in calls(torch.empty(64, 64, dtype=torch.bfloat16)).items()
        }
    print(f"empty boxed kernel {floor:8.0f} ns")
    print(f"{'op':8} {'device':>9} {'/empty':>7} {'meta':>9} {'fake':>9} {'fake/device':>12}")
    for name, ns in device.items():
        print(
            f"{name:8} {ns:9.0f} {ns / floor:7.2f}",
            f"{meta[name]:9.0f} {fake[name]:9.0f} {fake[name] / ns:12.1f}",
        )
    print(f"replay of a graph of 500 ops {replay_ns():8.0f} ns")


if __name__ == "__main__":
    main()
