"""Builds the PyTorch backend, the preload shim with its timekeeper, and the link stubs for GPU wheels."""

from __future__ import annotations

import os
import subprocess
from glob import glob
from pathlib import Path

import torch
from setuptools import find_packages, setup
from torch.utils.cpp_extension import BuildExtension, CppExtension

ROOT = Path(__file__).parent.resolve()
STUBS = {  # soname: sources
    "libcuda.so.1": ("cuda.c", "calls.c"),
    "libtorch_cuda.so": ("torch_cuda.c", "cublas.c", "calls.c"),
    "libc10_cuda.so": ("c10_cuda.c", "calls.c"),
}


class Build(BuildExtension):
    """The torch extension by BuildExtension, everything without torch by make and the C compiler."""

    def run(self) -> None:
        native = (ROOT if self.inplace else Path(self.build_lib).resolve()) / "revati" / "native"
        stubs = native / "stubs"
        stubs.mkdir(parents=True, exist_ok=True)
        compiler = os.environ.get("CC", "gcc")
        for soname, sources in STUBS.items():
            subprocess.run(
                [
                    compiler,
                    "-O2",
                    "-Wall",
                    "-shared",
                    "-fPIC",
                    f"-Wl,-soname,{soname}",
                    "-o",
                    str(stubs / soname),
                    *(str(ROOT / "csrc" / "stubs" / source) for source in sources),
                ],
                check=True,
            )
        (native / "built-for-torch").write_text(torch.__version__ + "\n")
        super().run()
        subprocess.run(["make", "-C", str(ROOT / "csrc" / "warp"), f"OUT={native}", "all"], check=True)


sources = sorted(
    path
    for room in ("device", "dispatch", "engines", "timeline", "comm", "python")
    for path in glob(f"csrc/{room}/*.cpp")
)

setup(
    packages=[*find_packages(include=["revati*"]), "revati.profiles"],
    package_data={"revati.models": ["**/*"], "revati.profiles": ["**/*"], "revati.report": ["**/*"]},
    ext_modules=[
        CppExtension(
            "revati._C",
            sources,
            include_dirs=[str(ROOT / "csrc")],
            extra_compile_args=[
                "-std=c++20",
                "-O2",
                "-g0",
                "-fvisibility=hidden",
                "-Wall",
                "-Wno-unknown-pragmas",
            ],
            extra_link_args=["-Wl,-rpath,$ORIGIN/../torch/lib"],
        )
    ],
    cmdclass={"build_ext": Build},
)
