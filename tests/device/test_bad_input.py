"""Each mistake gets one clear line that names the thing and the next step."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import revati
from revati import _C
from revati.cuda import bindings, compatibility


def last_line(code: str, **environment: str) -> str:
    """Run `code` in a process of its own, which must fail; the last line of what it says."""
    import os

    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode != 0
    return done.stderr.strip().splitlines()[-1]


def test_an_unknown_gpu() -> None:
    with pytest.raises(ValueError, match=r"h900.*h100_sxm"):
        bindings.configure_backend("h900", 1)


@pytest.mark.parametrize("count", [0, -1, 65])
def test_an_impossible_number_of_gpus(count: int) -> None:
    with pytest.raises(ValueError, match=f"{count} GPUs asked for; expected 1 to 64"):
        bindings.configure_backend("h100_sxm", count)


def test_a_gpu_that_is_not_there() -> None:
    with pytest.raises(RuntimeError, match="invalid device ordinal: device 2 of 2 virtual GPU"):
        torch.empty(1, device="revati:2")


def test_another_gpu_after_the_first() -> None:
    with pytest.raises(RuntimeError, match="already initialised with 2 x h100_sxm; start a new process"):
        revati.init(gpu="b200_sxm", count=2)


def test_an_op_without_a_shape_rule() -> None:
    with torch.library._scoped_library("revati_test", "DEF") as library:
        library.define("mystery(Tensor x) -> Tensor")
        with pytest.raises(
            NotImplementedError,
            match=r"'revati_test::mystery' has no shape rule.*\[2, 3\]Float.*register_fake",
        ):
            torch.ops.revati_test.mystery(torch.ones(2, 3, device="revati:0"))


def test_a_backend_that_was_built_for_another_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compatibility, "built_for", lambda: "2.12.1+cpu")
    with pytest.raises(
        ImportError,
        match=r"built for torch 2\.12\.1\+cpu, and the installed one is torch 2\.13.*rebuild it with",
    ):
        revati.init(gpu="h100_sxm", count=2)


def test_a_backend_that_was_never_built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compatibility, "built_for", lambda: None)
    with pytest.raises(ImportError, match=r"revati\._C is not built; rebuild it with `pip install"):
        compatibility.check()


def test_the_note_of_the_build_agrees_with_the_backend() -> None:
    assert compatibility.built_for() == torch.__version__
    assert _C.built_for_torch == torch.__version__.partition("+")[0]


def test_another_torch_under_the_cuda_identity(tmp_path: Path) -> None:
    other = tmp_path / "torch"
    other.mkdir()
    (other / "__init__.py").write_text("")
    (other / "version.py").write_text("__version__ = '2.12.0+cu130'\n")
    boot = Path(revati.__file__).parent / "boot"
    line = last_line("import torch", REVATI_IDENTITY="cuda", PYTHONPATH=f"{boot}:{tmp_path}")
    assert (
        "built for torch 2.13.0" in line
        and "installed one is torch 2.12.0+cu130" in line
        and "install torch 2.13.0" in line
        and "env -u REVATI_IDENTITY CLIENT" in line
    )


def test_a_kernel_library_that_was_built_for_another_torch(tmp_path: Path) -> None:
    source, library = tmp_path / "kernels.c", tmp_path / "kernels.so"
    source.write_text(
        "extern int symbol_of_another_torch(void); int call(void) { return symbol_of_another_torch(); }"
    )
    subprocess.run(["gcc", "-shared", "-fPIC", "-Wl,-z,now", "-o", library, source], check=True)
    boot = Path(revati.__file__).parent / "boot"
    line = last_line(
        f"import torch; torch.ops.load_library({str(library)!r})",
        REVATI_IDENTITY="cuda",
        PYTHONPATH=str(boot),
    )
    assert "kernels.so does not load beside torch 2.13" in line
    assert "symbol_of_another_torch" in line and "install its wheel for this torch" in line


def test_two_devices_in_one_op() -> None:
    with pytest.raises(
        RuntimeError, match=r"found at least two devices, revati:0 and revati:1! \(op aten::mm\)"
    ):
        torch.mm(torch.ones(2, 2, device="revati:0"), torch.ones(2, 2, device="revati:1"))


def test_a_fork_after_the_first_use() -> None:
    line = last_line(
        "import os, revati, torch; revati.init(); torch.ones(1, device='revati')\n"
        "if os.fork() == 0: torch.ones(1, device='revati')\n"
        "raise SystemExit(os.wait()[1] and 1)"
    )
    assert "Cannot re-initialize REVATI in forked subprocess" in line and "'spawn' start method" in line


def test_more_memory_than_the_gpu_has() -> None:
    with pytest.raises(
        torch.OutOfMemoryError, match=r"Tried to allocate 200\.00 GiB.*total capacity of 79\.\d+ GiB.*is free"
    ):
        torch.empty(200 << 30, dtype=torch.uint8, device="revati:0")
