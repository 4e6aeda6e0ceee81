"""`revati run`: any command, on a virtual GPU, in virtual time."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import typer
from rich.console import Console

from revati.cli.environment import RunOptions
from revati.cli.errors import CliError
from revati.cli.world import check_options, make_run_dir, remove_run_dir, run_world


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command(
        "run",
        context_settings={"allow_interspersed_args": False, "ignore_unknown_options": False},
        options_metavar="--gpu GPU [OPTIONS] -- COMMAND...",
    )(run)


def run(
    command: list[str] = typer.Argument(None, metavar="COMMAND...", help="What to run, after `--`."),
    gpu: str = typer.Option(None, help="GPU to emulate; `revati gpus` lists them."),
    gpus: int = typer.Option(1, help="How many of them this machine shall seem to have."),
    cpu_time: str = typer.Option(
        "charged", help="Host work costs its CPU time (charged), nothing (free), or wall time (wall)."
    ),
    cpu_factor: float = typer.Option(None, help="Scale of charged CPU time: emulated host over this one."),
    latency: str = typer.Option("profile", help="Trained models (profile) or roofline only (roofline)."),
    strict: bool = typer.Option(False, "--strict", help="Fail where only a roofline estimate exists."),
    trace: Path = typer.Option(None, help="Write a Perfetto trace here."),
    time_log: Path = typer.Option(None, help="Write every move of the virtual clock here."),
    report: Path = typer.Option(None, help="Write the closing summary here as JSON."),
    output_lengths: Path = typer.Option(None, help="File with the output length of each request."),
    model_configs: list[Path] = typer.Option(
        None, help="Folder with further ORG/NAME/config.json models (repeatable)."
    ),
    keep_run_dir: bool = typer.Option(False, "--keep-run-dir", help="Keep the run's private directory."),
) -> int:
    """Run COMMAND on virtual GPUs, in virtual time. Its exit code becomes ours."""
    if not gpu:
        raise CliError("--gpu is missing: name the GPU to emulate, for example --gpu h100_sxm")
    if not command:
        raise CliError("COMMAND is missing: revati run --gpu h100_sxm -- python script.py")
    options = RunOptions(
        gpu=gpu,
        gpus=gpus,
        cpu_time=cpu_time,
        cpu_factor=cpu_factor,
        latency=latency,
        strict=strict,
        trace=trace,
        time_log=time_log,
        output_lengths=output_lengths,
        model_config_dirs=tuple(model_configs or ()),
    )
    check_options(options)
    if report is not None and not report.resolve().parent.is_dir():
        raise CliError(f"--report: the folder of {report} does not exist; create it first")
    return _run_and_report(command, options, report, keep_run_dir)


def _run_and_report(command: list[str], options: RunOptions, report: Path | None, keep_run_dir: bool) -> int:
    from revati.models.hub import hub_environment
    from revati.report.summary import print_run_summary, run_block

    run_dir = make_run_dir()
    try:
        base_env = hub_environment(command, run_dir, options.model_config_dirs)
        result = run_world(command, options, run_dir=run_dir, base_env=base_env)
    finally:
        remove_run_dir(run_dir, keep=keep_run_dir)
    console = Console(stderr=True, highlight=False)
    print_run_summary(result, console)
    if report is not None:
        report.write_text(json.dumps(run_block(result), indent=1, sort_keys=True) + "\n")
    if keep_run_dir:
        print(f"run directory kept: {run_dir}", file=sys.stderr)
    return result.exit_code
