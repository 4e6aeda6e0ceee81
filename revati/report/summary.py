"""The closing summary of a run: for the terminal (rich) and as a JSON-ready dictionary."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from revati.cli.world import WorldResult

_CROWDED_BELOW = 0.75
"""`python -m benchmarks.accuracy h100-qwen3-8b-v030-chat-c1` had 0.84 to 0.88 on a quiet machine, and 0.64 to
0.70 in hours in which TTFT (p95) came out up to a tenth longer."""


def versions() -> dict[str, str]:
    """Versions of what took part in a run, read from package metadata without importing anything."""
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for package in ("revati", "torch", "vllm", "transformers", "xgboost"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def run_block(result: WorldResult) -> dict[str, Any]:
    """The `revati` block of a result file. Only `wall` differs between identical `free` runs."""
    options = result.options
    return {
        "gpu": options.gpu,
        "gpus": options.gpus,
        "profile": {"gpu": options.gpu, "latency": options.latency},
        "cpu_time": options.cpu_time,
        "cpu_factor": result.cpu_factor,
        "virtual_time_s": result.virtual_s,
        "predicted_time_by_family": [row.model_dump() for row in result.ops.families],
        "confidence_share": result.ops.confidence_share,
        "device_busy_ns": result.ops.device_busy_ns,
        "top_ops": [op.model_dump() for op in result.ops.top_ops],
        "roofline_ops": [op.model_dump() for op in result.ops.roofline_ops],
        "unreadable_reports": result.ops.unreadable,
        "versions": versions(),
        "exit_code": result.exit_code,
        "wall": {
            "wall_time_s": result.wall_s,
            "speed_up": result.speed_up,
            "host_pace": result.host_pace,
            "clock": result.clock,
        },
    }


def crowded(host_pace: float | None) -> str | None:
    """One line for a run whose machine was too busy for its host times to be trusted as usual, or None."""
    if host_pace is None or host_pace >= _CROWDED_BELOW:
        return None
    return (
        f"this machine was crowded: its pace was {host_pace:.0%} of its best in this run. Host times, and "
        "TTFT with them, are less certain: repeat on a quiet machine, or with --cpu-time free (docs/time.md)"
    )


def print_run_summary(result: WorldResult, console: Console) -> None:
    """Print virtual and wall time, then predicted GPU time by operator family with its confidence."""
    options = result.options
    time_line = f"wall {result.wall_s:.1f} s"
    if result.virtual_s is not None:
        time_line = f"virtual {result.virtual_s:.3f} s, " + time_line
    if result.speed_up is not None:
        time_line += f", {result.speed_up:.2f}x"
    host = options.cpu_time if result.cpu_factor is None else f"{options.cpu_time} x {result.cpu_factor:.2f}"
    console.print(f"[bold]revati[/] {options.gpus} x {options.gpu}, cpu time {host}: {time_line}")
    if (words := crowded(result.host_pace)) is not None:
        console.print(f"[yellow]{words}[/]")
    if result.stuck:
        console.print("[red]ended early: every process waited, and none had a deadline (a deadlock)[/]")
    if result.ops.families:
        console.print(family_table(result))
        console.print(_confidence_line(result.ops.confidence_share))
    else:
        console.print("no operator reached the virtual GPU in this run")
    if result.ops.unreadable:
        console.print(f"[yellow]reports cut short (process killed?): {', '.join(result.ops.unreadable)}[/]")


def family_table(result: WorldResult) -> Table:
    """Predicted GPU time by operator family, over all ranks."""
    table = Table(title="predicted GPU time", box=box.SIMPLE_HEAD, title_justify="left")
    table.add_column("family")
    for header in ("calls", "time ms", "share"):
        table.add_column(header, justify="right")
    for row in result.ops.families:
        table.add_row(row.family, f"{row.count:,}", f"{row.total_ns / 1e6:,.2f}", f"{row.share:.1%}")
    return table


def _confidence_line(share: dict[str, float]) -> str:
    parts = [f"{name.replace('_', ' ')} {value:.1%}" for name, value in share.items() if value > 0]
    return "predictions, by time: " + ", ".join(parts)
