"""Options that `revati run` and `revati bench` share, declared once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from revati.cli.errors import CliError

Gpu = Annotated[str | None, typer.Option("--gpu", help="GPU to emulate; `revati gpus` lists them.")]
CpuTime = Annotated[
    str,
    typer.Option(
        "--cpu-time", help="Host work costs its CPU time (charged), nothing (free), wall time (wall)."
    ),
]
CpuFactor = Annotated[
    float | None,
    typer.Option("--cpu-factor", help="Scale of charged CPU time: emulated host over this one."),
]
Latency = Annotated[
    str, typer.Option("--latency", help="Trained models (profile) or roofline only (roofline).")
]
Strict = Annotated[bool, typer.Option("--strict", help="Fail where only a roofline estimate exists.")]
Trace = Annotated[Path | None, typer.Option("--trace", help="Write a Perfetto trace here.")]
TimeLog = Annotated[
    Path | None, typer.Option("--time-log", help="Write every move of the virtual clock here.")
]
OutputLengths = Annotated[
    Path | None, typer.Option("--output-lengths", help="File with the output length of each request.")
]
ModelConfigs = Annotated[
    list[Path] | None,
    typer.Option("--model-configs", help="Folder with further ORG/NAME/config.json models (repeatable)."),
]
KeepRunDir = Annotated[
    bool, typer.Option("--keep-run-dir", help="Keep the run's private directory with logs and reports.")
]


def required_gpu(gpu: str | None) -> str:
    """The GPU id, or one clear line if it is missing."""
    if not gpu:
        raise CliError("--gpu is missing: name the GPU to emulate, for example --gpu h100_sxm")
    return gpu


def check_output(name: str, path: Path | None) -> None:
    """Refuse an output file whose folder does not exist, before the run instead of after it."""
    if path is not None and not path.resolve().parent.is_dir():
        raise CliError(f"{name}: the folder of {path} does not exist; create it first")
