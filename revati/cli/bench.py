"""`revati bench vllm`: server and load generator in one virtual world, with both programs' own flags."""

from __future__ import annotations

import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from revati.cli import options
from revati.cli.environment import RunOptions
from revati.cli.world import check_options, make_run_dir, remove_run_dir

if TYPE_CHECKING:
    from revati.bench.session import BenchOutcome

_EPILOG = (
    "All other flags are those of `vllm serve` and `vllm bench serve`, as they are. "
    "Example: revati bench vllm --gpu h100_sxm --model meta-llama/Llama-3.1-8B-Instruct "
    "--dataset-name random --random-input-len 1024 --random-output-len 128 --request-rate 8 --result out.json"
)


_STOPPING_S = 60.0  # real: after an interrupt the client evaluates what it has, and the server ends by itself


def build_app() -> typer.Typer:
    """The `bench` group."""
    app = typer.Typer(help="Serving benchmarks on virtual GPUs.", no_args_is_help=True, rich_markup_mode=None)
    app.callback()(_group)
    app.command(
        "vllm",
        epilog=_EPILOG,
        context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
    )(options.with_run_options(vllm))
    return app


def _group() -> None:
    """Serving benchmarks on virtual GPUs."""


def vllm(
    run_options: RunOptions,
    context: typer.Context,
    gpus: Annotated[int | None, typer.Option(help="How many; default: what the parallelism needs.")] = None,
    result: Annotated[Path | None, typer.Option(help="Write the result JSON here.")] = None,
    html: Annotated[Path | None, typer.Option(help="Write a one-file report here.")] = None,
    server_log: Annotated[Path | None, typer.Option(help="Keep the server's log here.")] = None,
    keep_run_dir: options.KeepRunDir = False,
) -> int:
    """Serve a model on virtual GPUs under load and report the latencies that real ones would give."""
    # Server, load and driver are all in the run: when nobody has a deadline, nothing can ever happen again.
    run_options = replace(
        run_options, gpus=1 if gpus is None else gpus, exit_when_stuck=True, grace_s=_STOPPING_S
    )
    check_options(run_options)
    for name, path in (("--result", result), ("--html", html), ("--server-log", server_log)):
        options.check_output(name, path)
    from revati.bench import session
    from revati.report.perfetto import merge_traces, request_lanes

    run_dir = make_run_dir()
    try:
        request = session.BenchRequest(words=list(context.args), options=run_options, gpus=gpus)
        outcome = session.run(request, run_dir)
        _write_outputs(outcome, result, html, server_log, run_dir)
        if run_options.trace is not None:
            merge_traces(run_dir, run_options.trace, request_lanes(outcome.result.client))
    finally:
        remove_run_dir(run_dir, keep=keep_run_dir)
    if keep_run_dir:
        print(f"run directory kept: {run_dir}", file=sys.stderr)
    return outcome.exit_code


def _write_outputs(
    outcome: BenchOutcome, result: Path | None, html: Path | None, server_log: Path | None, run_dir: Path
) -> None:
    from revati.bench.driver import log_tail
    from revati.bench.plan import CLIENT_LOG, SERVER_LOG
    from revati.report.bench_summary import print_bench_summary

    bench = outcome.result
    if server_log is not None and (run_dir / SERVER_LOG).is_file():
        shutil.copyfile(run_dir / SERVER_LOG, server_log)
    if result is not None:
        result.write_text(bench.to_json(detailed=outcome.detailed))
    if html is not None and bench.client:
        from revati.report.html import write_html

        write_html(bench, html)
    print_bench_summary(bench, outcome.world, Console(stderr=True, highlight=False))
    if bench.error:  # the last word
        failed = SERVER_LOG if bench.stage == "server failed" else CLIENT_LOG
        if not bench.explained:
            print("\n".join(log_tail(run_dir, failed)), file=sys.stderr)
        print(f"revati: {bench.error}", file=sys.stderr)
    elif bench.stage == "interrupted":
        print(f"revati: interrupted; figures of {bench.requests_finished} requests kept", file=sys.stderr)
