"""The closing table of `revati bench`: latencies, virtual and wall time, predicted time by family."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Table

from revati.report.summary import print_run_summary

if TYPE_CHECKING:
    from revati.bench.result import BenchResult
    from revati.cli.world import WorldResult

METRICS = ("ttft", "tpot", "itl", "e2el")


def print_bench_summary(result: BenchResult, world: WorldResult, console: Console) -> None:
    """Print the summary; latencies only if the client finished."""
    if result.client:
        console.print(latency_table(result.client))
        console.print(_throughput_line(result.client))
    elif counters := result.block.get("engine_counters"):
        kept = ", ".join(f"{name.replace('_', ' ')} {value:,.0f}" for name, value in counters.items())
        console.print(f"stopped at stage {result.stage!r}; the server's own counters: {kept}")
    parts = result.block.get("mean_request_parts_ms") or {}
    if parts:
        console.print(
            "mean per request, by the engine: " + ", ".join(f"{k} {v:.1f} ms" for k, v in parts.items())
        )
    speed_up = result.block["wall"].get("serving_speed_up")
    if speed_up is not None:
        console.print(f"serving ran at {speed_up:.2f}x the speed of the emulated GPU")
    print_run_summary(world, console)
    for note in result.block.get("notes", ()):
        console.print(f"note: {note}")


def latency_table(client: dict[str, Any]) -> Table:
    """Latency statistics of vLLM's result, in virtual milliseconds."""
    table = Table(title="latency, virtual ms", box=box.SIMPLE_HEAD, title_justify="left")
    table.add_column("metric")
    columns = [key[: -len("_ttft_ms")] for key in client if key.endswith("_ttft_ms")]
    for column in columns:
        table.add_column(column, justify="right")
    for metric in METRICS:
        values = [client.get(f"{column}_{metric}_ms") for column in columns]
        if any(value is not None for value in values):
            table.add_row(metric.upper(), *("" if value is None else f"{value:.2f}" for value in values))
    return table


def _throughput_line(client: dict[str, Any]) -> str:
    return (
        f"{client.get('completed', 0)} requests in {client.get('duration', 0.0):.2f} virtual s: "
        f"{client.get('request_throughput', 0.0):.2f} requests/s, "
        f"{client.get('output_throughput', 0.0):.1f} output tokens/s"
    )
