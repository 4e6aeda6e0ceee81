"""GPU kernel libraries of official wheels: after each load, their ops get the virtual GPU's kernel.

The libraries bring their real schemas, so no op list is kept by hand. Shapes of ops that return tensors come
from the engine's own fake implementations; revati.engines adds those that are missing.
"""

from __future__ import annotations

import ctypes
import importlib.util
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

_known: set[str] = set()
TAKEN: list[str] = []
HOST_ONLY: list[str] = []  # ops of kernel libraries that have no kernel for the device
AFTER: list[Callable[[], None]] = []  # engines add their shape rules here
_OWN = (
    "aten",
    "prim",
    "prims",
    "quantized",
    "torch",
    "c10d",
    "c10d_functional",
    "_c10d_functional",
    "inductor",
    "debugprims",
    "rngprims",
    "mkldnn",
    "onednn",
    "sparse",
    "static_runtime",
    "torchaudio",
    "profiler",
    "higher_order",
    "fsdp",
    "_native",
    "_inductor_test",
    "streams",
)


def _ops() -> set[str]:
    """Full names ("namespace::op.overload") of all ops that are registered by now, but for PyTorch's own."""
    import torch

    return {name for name in torch._C._dispatch_get_all_op_names() if name.split("::")[0] not in _OWN}


def note_known() -> None:
    """Remember the ops that exist before a kernel library is loaded: Python registers some for the device."""
    _known.update(_ops())


def take_over() -> list[str]:
    """Take over every op that appeared since `note_known`; returns their names, with overloads."""
    from revati import _C

    fresh = sorted(_ops() - _known)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        taken = _C.takeover(fresh)
    _known.update(fresh)
    TAKEN.extend(taken)
    HOST_ONLY.extend(sorted(set(fresh) - set(taken)))
    for hook in AFTER:
        hook()
    return taken


def misfit(library: str, reason: object) -> str:
    """One line on a kernel library that the loader refused."""
    import torch

    return (
        f"revati: kernel library {library} does not load beside torch {torch.__version__} ({reason}); "
        f"install its wheel for this torch, or see `revati doctor` for missing link stubs"
    )


def watch_load_library() -> None:
    """Let `torch.ops.load_library` take over what it loads, as imports of kernel libraries do."""
    import torch

    from revati.cuda import ledger

    def load_library(self: Any, path: str) -> None:
        note_known()
        try:
            before(self, path)
        except OSError as error:
            raise OSError(misfit(path, error.__cause__ or error)) from None
        take_over()

    before = ledger.replace(
        torch._ops._Ops,
        "load_library",
        load_library,
        why="ops of GPU kernel libraries get the virtual GPU's kernel",
        until="never",
    )


_torchvision: list[object] = []
_preloaded: list[object] = []


def preload() -> None:
    """Load the link stubs and the CUDA runtime: wheels built for CUDA find them without LD_LIBRARY_PATH."""
    if _preloaded:
        return
    import revati

    folders = [Path(revati.__file__).resolve().parent / "native" / "stubs"]
    nvidia = importlib.util.find_spec("nvidia")
    for location in (nvidia.submodule_search_locations or []) if nvidia else []:
        folders += sorted(Path(location).glob("cu*/lib"))
    for folder in folders:
        for name in ("libcuda.so.1", "libc10_cuda.so", "libtorch_cuda.so", "libcudart.so.*", "libnvrtc.so.*"):
            for path in sorted(folder.glob(name)):
                _preloaded.append(ctypes.CDLL(str(path)))


def before_torchvision() -> None:
    """Load torchvision's op library; where it does not fit this torch, declare the ops it fakes.

    The wheel on PyPI is built for CUDA. Beside a CPU torch its library does not load; `import torchvision`,
    which transformers does, fails at the first fake of an op that does not exist.
    """
    import torch

    note_known()
    preload()
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        return
    try:
        for path in Path(spec.origin).parent.glob("_C*.so"):
            ctypes.CDLL(str(path))
    except OSError:
        library = torch.library.Library("torchvision", "FRAGMENT")
        for op in ("nms", "qnms"):
            library.define(f"{op}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _torchvision.append(library)
    take_over()
