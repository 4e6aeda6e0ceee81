"""GPU kernel libraries of official wheels: after each load, every op they register gets the virtual device's kernel.

The libraries bring their real schemas, so no op list is kept by hand. Shapes of ops that return tensors come from the
engine's own fake implementations; revati.engines adds those that are missing.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

_known: set[str] = set()
_done: set[str] = set()
TAKEN: list[str] = []
AFTER: list[Callable[[], None]] = []  # engines add their shape rules here
_OWN = ("aten", "prim", "prims", "quantized", "torch", "c10d", "c10d_functional", "_c10d_functional", "inductor", "debugprims",
        "rngprims", "mkldnn", "onednn", "sparse", "static_runtime", "torchvision", "torchaudio", "profiler", "higher_order", "fsdp", "_native", "_inductor_test", "streams")


def _namespaces() -> set[str]:
    import torch

    return {name.split("::")[0] for name in torch._C._dispatch_get_all_op_names()}


def note_known() -> None:
    """Remember the namespaces that exist before any kernel library is loaded."""
    _known.update(_namespaces())


def take_over(module: str) -> list[str]:
    """Take over the ops of every namespace that appeared since the last call; returns their names."""
    from revati import _C

    fresh = sorted(n for n in _namespaces() if n not in _known and n not in _OWN)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        taken = [name for name in _C.takeover(fresh) if name not in _done]
    _done.update(taken)
    TAKEN.extend(taken)
    for hook in AFTER:
        hook()
    return taken


_torchvision: list[object] = []


def declare_torchvision() -> None:
    """Declare the ops torchvision gives fakes to: the wheel's own library wants CUDA and registers nothing on a CPU torch."""
    import torch

    library = torch.library.Library("torchvision", "FRAGMENT")
    for op in ("nms", "qnms"):
        if not torch._C._dispatch_has_kernel(f"torchvision::{op}"):
            library.define(f"{op}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _torchvision.append(library)
