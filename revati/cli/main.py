"""The `revati` command: mounts the sub-commands and turns every expected error into one line.

Rooms that need a heavy import (torch, vLLM, XGBoost) are imported by the command that uses them, never here.
"""

from __future__ import annotations

import importlib
import signal
import sys
from collections.abc import Sequence
from types import FrameType

import typer

from revati import __version__
from revati.cli.errors import CliError

_EXIT_INTERRUPTED = 130


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"revati {__version__}")
        raise typer.Exit()


def build_app() -> typer.Typer:
    """Assemble the command line; sub-commands of rooms that are not installed are left out."""
    app = typer.Typer(
        name="revati",
        help="Run unmodified LLM serving engines on a virtual GPU, in virtual time.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        add_completion=False,
    )

    @app.callback()
    def _root(
        version: bool = typer.Option(
            False, "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ) -> None:
        """Run unmodified LLM serving engines on a virtual GPU, in virtual time."""

    from revati.cli import bench, doctor, models, run

    run.register(app)
    doctor.register(app)
    models.register(app)
    app.add_typer(bench.build_app(), name="bench")
    _mount_profile(app)
    return app


def _mount_profile(app: typer.Typer) -> None:
    """Mount `revati profile` and `revati gpus`, which belong to the latency room."""
    try:
        profile = importlib.import_module("revati.cli.profile")
    except ModuleNotFoundError as error:
        if error.name != "revati.cli.profile":
            raise
        return
    app.add_typer(profile.app, name="profile")
    if hasattr(profile, "gpus"):
        app.command("gpus")(profile.gpus)


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of the `revati` script; ends the process with the command's exit code."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _end_orderly)
    sys.exit(run_main(sys.argv[1:] if argv is None else list(argv)))


def _end_orderly(number: int, frame: FrameType | None) -> None:
    """Unwind the stack, so that the run directory is removed; a command that runs gets the signal instead."""
    raise SystemExit(128 + number)


def run_main(argv: Sequence[str]) -> int:
    """Run one command line and return its exit code; expected errors become one line on stderr."""
    try:
        outcome = build_app()(args=list(argv), prog_name="revati", standalone_mode=False)
    except CliError as error:
        print(f"revati: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("revati: interrupted", file=sys.stderr)
        return _EXIT_INTERRUPTED
    except Exception as error:
        return _report_parser_error(error)
    return outcome if isinstance(outcome, int) else 0


def _report_parser_error(error: Exception) -> int:
    """Print what the argument parser refused (click's or typer's own exception types alike), or raise."""
    if isinstance(error, typer.Exit):
        return error.exit_code
    if isinstance(error, typer.Abort):
        return _EXIT_INTERRUPTED
    if type(error).__name__ == "NoArgsIsHelpError":
        print(getattr(error, "message", ""), file=sys.stderr)
        return 2
    format_message = getattr(error, "format_message", None)
    if format_message is None:
        raise error
    print(f"revati: {' '.join(format_message().split())}", file=sys.stderr)
    return int(getattr(error, "exit_code", 2))


if __name__ == "__main__":
    main()
