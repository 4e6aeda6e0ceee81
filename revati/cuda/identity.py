"""Presents the virtual GPU as `cuda` in this process: hooks on imports of torch, triton, kernel libraries.

Order matters. CUDA hooks count only if they are registered before torch looks for them, so the backend
library is loaded when `import torch` begins; the classes that `torch.cuda` derives from must exist when
`torch.cuda` is imported. Processes that never import torch pay for one finder on `sys.meta_path` and nothing
else.
"""

from __future__ import annotations

import ctypes
import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType

from revati.cuda import nvml

_TORCH_LIBRARIES = ("libc10.so", "libtorch_cpu.so", "libtorch.so", "libtorch_python.so")


class _After(importlib.abc.Loader):
    """A loader that calls back when the module has run."""

    def __init__(self, loader: importlib.abc.Loader, then: Callable[[ModuleType], None]) -> None:
        self._loader, self._then = loader, then

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        self._then(module)

    def __getattr__(self, name: str) -> object:  # resource readers, get_code, ...
        return getattr(self._loader, name)


class _Nothing(importlib.abc.Loader):
    """Of a module that holds nothing."""

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return None

    def exec_module(self, module: ModuleType) -> None: ...


class _KernelLibrary(_After):
    """The same for a GPU kernel library; says in one line when it does not fit the installed torch."""

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        try:
            return super().create_module(spec)
        except ImportError as error:
            from revati.cuda import declared, libraries

            if declared.declare(spec.name, Path(str(spec.origin))):
                self._loader = _Nothing()
                return None
            raise ImportError(
                libraries.misfit(str(spec.origin), error), name=error.name, path=error.path
            ) from None


class _Finder(importlib.abc.MetaPathFinder):
    def __init__(self) -> None:
        self._before: dict[str, Callable[[], None]] = {}
        self._after: dict[str, Callable[[ModuleType], None]] = {}
        self._busy: set[str] = set()

    def before(self, name: str, call: Callable[[], None]) -> None:
        self._before[name] = call

    def after(self, name: str, call: Callable[[ModuleType], None]) -> None:
        self._after[name] = call

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname in self._busy:
            return None
        then = self._after.get(fullname)
        if then is None and fullname.startswith("vllm.") and fullname.rpartition(".")[2].startswith("_"):
            then = _kernel_library
        if fullname not in self._before and then is None:
            return None
        if call := self._before.pop(fullname, None):
            call()
        if then is None:
            return None
        self._busy.add(fullname)
        try:
            spec = importlib.util.find_spec(fullname)
        finally:
            self._busy.discard(fullname)
        if spec is not None and spec.loader is not None:
            if then is _kernel_library and not isinstance(
                spec.loader, importlib.machinery.ExtensionFileLoader
            ):
                return None
            if then is _kernel_library:
                _before_kernel_library()
            kind = _KernelLibrary if then is _kernel_library else _After
            spec.loader = kind(spec.loader, then)  # type: ignore[arg-type]
        return spec


_finder: _Finder | None = None


def arm() -> None:
    """Install the import hooks. Calling it twice is harmless; calling it after `import torch` is an error."""
    global _finder
    if _finder is not None:
        return
    if "torch" in sys.modules:
        raise RuntimeError(
            "revati: torch is already imported; the cuda identity must be in place before (use `revati run`)"
        )
    _finder = _Finder()
    sys.meta_path.insert(0, _finder)
    _finder.before("torch", _load_backend)
    _finder.before("torch.cuda", _face)
    _finder.before("torch.distributed.distributed_c10d", _before_distributed)
    _finder.before("torchvision", _before_torchvision)
    _finder.before("torchaudio", _preload)
    _finder.after("torch", _torch_imported)
    _finder.after("triton", _triton_imported)
    for name in nvml.MODULES:
        _finder.after(name, nvml.install)


def arm_explicit() -> None:
    """Hooks of the explicit identity: wheels built for CUDA that cannot be imported beside a CPU torch."""
    global _finder
    if _finder is None and "torchvision" not in sys.modules:
        _finder = _Finder()
        _finder.before("torchvision", _before_torchvision)
        _finder.before("torchaudio", _preload)
        sys.meta_path.insert(0, _finder)


def _load_backend() -> None:
    from revati.cuda import compatibility, refusal

    torch = importlib.util.find_spec("torch")
    if torch is None or torch.origin is None:
        return  # a client in an environment of its own: its import fails as it would anywhere
    try:
        compatibility.check()
    except compatibility.BackendMismatchError as error:
        text = f"{error}. A client that needs no GPU runs as `env -u REVATI_IDENTITY CLIENT`"
        refusal.note(text.removeprefix("revati: "))
        raise compatibility.BackendMismatchError(text) from None
    extension = importlib.util.find_spec("revati._C")
    assert extension is not None and extension.origin is not None
    for name in _TORCH_LIBRARIES:
        ctypes.CDLL(str(Path(torch.origin).parent / "lib" / name))
    try:
        backend = ctypes.CDLL(extension.origin)
    except OSError as error:
        raise ImportError(
            f"revati: the extension does not fit this torch ({error}); rebuild it with `pip install .`"
        ) from None
    if backend.revati_install_cuda() != 0:
        raise ImportError("revati: the virtual GPU could not be registered as cuda; see the line above")


def _face() -> None:
    from revati.cuda import bindings

    bindings.install()


def _before_distributed() -> None:
    from revati.comm import process_group

    process_group.install_nccl()


def _torch_imported(module: ModuleType) -> None:
    from revati.cuda import session

    session.begin()


def _before_torchvision() -> None:
    from revati.cuda import libraries

    libraries.before_torchvision()


def _preload() -> None:
    from revati.cuda import libraries

    libraries.preload()


def _triton_imported(module: ModuleType) -> None:
    from revati.cuda import triton

    triton.install()


def _before_kernel_library() -> None:
    from revati.cuda import libraries

    libraries.preload()
    libraries.note_known()


def _kernel_library(module: ModuleType) -> None:
    from revati.cuda import libraries

    libraries.take_over()
