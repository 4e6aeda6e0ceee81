"""Options that `revati run` and `revati bench` share, declared once."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer

from revati.cli.environment import RunOptions
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
    typer.Option(
        "--cpu-factor",
        help="Scale of charged CPU time: emulated host over this one. Without it: measured, all the time.",
    ),
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
    Path | None,
    typer.Option("--output-lengths", help='JSON lines {"output_tokens": N}: where request 0, 1, ... ends.'),
]
ModelConfigs = Annotated[
    list[Path] | None,
    typer.Option("--model-configs", help="Folder with further ORG/NAME/config.json models (repeatable)."),
]
FoldRanks = Annotated[
    bool,
    typer.Option("--fold-ranks", help="One worker process stands for all tensor-parallel ranks: faster."),
]
KeepRunDir = Annotated[
    bool, typer.Option("--keep-run-dir", help="Keep the run's private directory with logs and reports.")
]


def make_run_options(
    gpu: Gpu = None,
    cpu_time: CpuTime = "charged",
    cpu_factor: CpuFactor = None,
    latency: Latency = "profile",
    strict: Strict = False,
    trace: Trace = None,
    time_log: TimeLog = None,
    output_lengths: OutputLengths = None,
    model_configs: ModelConfigs = None,
    fold_ranks: FoldRanks = False,
) -> RunOptions:
    """The options that every run has, as one object."""
    return RunOptions(
        gpu=required_gpu(gpu),
        cpu_time=cpu_time,
        cpu_factor=cpu_factor,
        latency=latency,
        strict=strict,
        trace=trace,
        time_log=time_log,
        output_lengths=output_lengths,
        model_config_dirs=tuple(model_configs or ()),
        fold_ranks=fold_ranks,
    )


def with_run_options(command: Callable[..., int]) -> Callable[..., int]:
    """Give a command the options of `make_run_options`; it receives them as its first argument.

    On the command line they stand before the command's own options.
    """
    shared = inspect.signature(make_run_options, eval_str=True).parameters
    _, *own = inspect.signature(command, eval_str=True).parameters.values()
    keyword_only = inspect.Parameter.KEYWORD_ONLY
    parameters = [p.replace(kind=keyword_only) for p in (*shared.values(), *own)]

    @wraps(command)
    def complete(**values: Any) -> int:
        run_options = make_run_options(**{name: values.pop(name) for name in shared})
        return command(run_options, **values)

    complete.__annotations__ = {p.name: p.annotation for p in parameters}
    setattr(complete, "__signature__", inspect.Signature(parameters, return_annotation=int))  # noqa: B010
    return complete


def required_gpu(gpu: str | None) -> str:
    """The GPU id, or one clear line if it is missing."""
    if not gpu:
        raise CliError("--gpu is missing: name the GPU to emulate, for example --gpu h100_sxm")
    return gpu


def check_output(name: str, path: Path | None) -> None:
    """Refuse an output file whose folder does not exist, before the run instead of after it."""
    if path is not None and not path.resolve().parent.is_dir():
        raise CliError(f"{name}: the folder of {path} does not exist; create it first")
