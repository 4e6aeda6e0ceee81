"""`revati run`: any command, on a virtual GPU, in virtual time."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from revati.cli import options
from revati.cli.environment import RunOptions
from revati.cli.errors import CliError
from revati.cli.preflight import check_command
from revati.cli.world import check_options, make_run_dir, remove_run_dir, run_world


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command(
        "run",
        context_settings={"allow_interspersed_args": False, "ignore_unknown_options": False},
        options_metavar="--gpu GPU [OPTIONS] -- COMMAND...",
    )(options.with_run_options(run))


def run(
    run_options: RunOptions,
    command: Annotated[list[str] | None, typer.Argument(metavar="COMMAND...", help="What to run.")] = None,
    gpus: Annotated[int, typer.Option(help="How many of them this machine shall seem to have.")] = 1,
    exit_when_stuck: Annotated[
        bool,
        typer.Option(
            "--exit-when-stuck", help="Exit 3 when all wait without a deadline, instead of standing still."
        ),
    ] = False,
    parallel: Annotated[
        bool, typer.Option("--parallel", help="free: threads side by side; reruns may then differ.")
    ] = False,
    allow_real_time: Annotated[
        bool, typer.Option("--allow-real-time", help="Also run a program that virtual time cannot cover.")
    ] = False,
    grace: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", help="Real seconds to end after a signal, before the kill (10)."),
    ] = None,
    report: Annotated[Path | None, typer.Option(help="Write the closing summary here as JSON.")] = None,
    keep_run_dir: options.KeepRunDir = False,
) -> int:
    """Run COMMAND on virtual GPUs, in virtual time. Its exit code becomes ours."""
    if not command:
        raise CliError("COMMAND is missing: revati run --gpu h100_sxm -- python script.py")
    run_options = replace(
        run_options,
        gpus=gpus,
        exit_when_stuck=exit_when_stuck,
        parallel=parallel,
        allow_real_time=allow_real_time,
        grace_s=grace,
    )
    check_options(run_options)
    options.check_output("--report", report)
    check_command(command, gpus)
    return _run_and_report(command, run_options, report, keep_run_dir)


def _run_and_report(
    command: list[str], run_options: RunOptions, report: Path | None, keep_run_dir: bool
) -> int:
    from revati.models.hub import hub_environment
    from revati.report.perfetto import merge_traces
    from revati.report.summary import print_run_summary, run_block

    run_dir = make_run_dir()
    try:
        base_env = hub_environment(command, run_dir, run_options.model_config_dirs)
        result = run_world(command, run_options, run_dir=run_dir, base_env=base_env)
        if run_options.trace is not None:
            merge_traces(run_dir, run_options.trace)
    finally:
        remove_run_dir(run_dir, keep=keep_run_dir)
    console = Console(stderr=True, highlight=False)
    print_run_summary(result, console)
    if report is not None:
        report.write_text(json.dumps(run_block(result), indent=1, sort_keys=True) + "\n")
    if keep_run_dir:
        print(f"run directory kept: {run_dir}", file=sys.stderr)
    if result.refusal:
        raise CliError(result.refusal)
    return result.exit_code
