"""A one-file HTML report of a benchmark: latencies over time, load, KV usage, where predicted time goes.

The page carries its own copy of plotly.js, so it opens without a network.
"""

from __future__ import annotations

import html as html_text
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy

if TYPE_CHECKING:
    from revati.bench.result import BenchResult

_WINDOWS = 40
_STYLE = (
    "body{font:15px system-ui,sans-serif;max-width:1100px;margin:2em auto;padding:0 1em;color:#222}"
    "table{border-collapse:collapse}td,th{padding:.25em .8em;text-align:right;border-bottom:1px solid #ddd}"
    "td:first-child,th:first-child{text-align:left}h2{margin-top:2em}.note{color:#666}"
)


def write_html(result: BenchResult, path: Path) -> None:
    """Write the report; needs plotly."""
    path.write_text(render(result), encoding="utf-8")


def render(result: BenchResult) -> str:
    """The whole page."""
    figures = [
        ("Latency over time", latency_over_time(result.client)),
        ("Time between tokens", token_gaps(result.client)),
        ("Load and KV cache", engine_load(result)),
        ("Predicted GPU time by operator family", family_bars(result.block)),
    ]
    drawn = [(title, figure) for title, figure in figures if figure is not None]
    parts = [
        _head(result),
        _latency_rows(result.client),
        _ttft_parts(result.block),
        _confidence(result.block),
    ]
    for number, (title, figure) in enumerate(drawn):
        library: bool | str = "inline" if number == 0 else False
        parts.append(f"<h2>{title}</h2>")
        parts.append(figure.to_html(full_html=False, include_plotlyjs=library, div_id=f"figure-{number}"))
    title = html_text.escape(f"Revati: {result.client.get('model_id', '')} on {result.block['gpu']}")
    body = "\n".join(part for part in parts if part)
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f"<style>{_STYLE}</style></head><body>\n{body}\n</body></html>\n"
    )


def windowed_percentiles(
    times_s: Sequence[float], values: Sequence[float], percentiles: Sequence[float] = (50, 90, 99)
) -> tuple[list[float], dict[float, list[float]]]:
    """Percentiles of `values` in equal windows of time: window centres and one series per percentile."""
    times, data = numpy.asarray(times_s, dtype=float), numpy.asarray(values, dtype=float)
    if len(times) == 0:
        return [], {percentile: [] for percentile in percentiles}
    windows = int(min(_WINDOWS, max(1, len(times) // 5)))
    edges = numpy.linspace(times.min(), times.max() + 1e-9, windows + 1)
    index = numpy.clip(numpy.digitize(times, edges) - 1, 0, windows - 1)
    centres: list[float] = []
    series: dict[float, list[float]] = {percentile: [] for percentile in percentiles}
    for window in range(windows):
        inside = data[index == window]
        if len(inside):
            centres.append(float((edges[window] + edges[window + 1]) / 2))
            for percentile in percentiles:
                series[percentile].append(float(numpy.percentile(inside, percentile)))
    return centres, series


def latency_over_time(client: dict[str, Any]) -> Any | None:
    """TTFT of each request at its start, with percentiles by window."""
    starts, ttfts = client.get("start_times") or [], client.get("ttfts") or []
    if not starts or len(starts) != len(ttfts):
        return None
    import plotly.graph_objects as go

    origin = min(starts)
    times = [start - origin for start in starts]
    values = [ttft * 1e3 for ttft in ttfts]
    figure = go.Figure()
    figure.add_scatter(x=times, y=values, mode="markers", name="request", marker={"size": 4, "opacity": 0.4})
    centres, series = windowed_percentiles(times, values)
    for percentile, line in series.items():
        figure.add_scatter(x=centres, y=line, mode="lines", name=f"p{percentile:g}")
    return _titled(figure, "virtual s", "TTFT, ms")


def token_gaps(client: dict[str, Any]) -> Any | None:
    """Percentiles over time of the gaps between tokens, and mean gap per request."""
    starts, ttfts, itls = (client.get(key) or [] for key in ("start_times", "ttfts", "itls"))
    if not starts or not any(itls):
        return None
    import plotly.graph_objects as go

    origin = min(starts)
    times: list[float] = []
    gaps: list[float] = []
    for start, ttft, request in zip(starts, ttfts, itls, strict=False):
        now = start - origin + ttft
        for gap in request:
            now += gap
            times.append(now)
            gaps.append(gap * 1e3)
    figure = go.Figure()
    centres, series = windowed_percentiles(times, gaps)
    for percentile, line in series.items():
        figure.add_scatter(x=centres, y=line, mode="lines", name=f"ITL p{percentile:g}")
    return _titled(figure, "virtual s", "ms")


def engine_load(result: BenchResult) -> Any | None:
    """Running and waiting requests and KV cache usage, as the engine logged them each virtual second."""
    if not result.samples:
        return None
    import plotly.graph_objects as go

    seconds = [sample.second for sample in result.samples]
    figure = go.Figure()
    figure.add_scatter(x=seconds, y=[s.running for s in result.samples], name="running requests")
    figure.add_scatter(x=seconds, y=[s.waiting for s in result.samples], name="waiting requests")
    figure.add_scatter(
        x=seconds, y=[s.kv_usage_percent for s in result.samples], name="KV cache, %", yaxis="y2"
    )
    figure.update_layout(yaxis2={"overlaying": "y", "side": "right", "title": "KV cache, %"})
    return _titled(figure, "virtual s", "requests")


def family_bars(block: dict[str, Any]) -> Any | None:
    """Predicted GPU time per operator family, over all ranks."""
    families = block.get("predicted_time_by_family") or []
    if not families:
        return None
    import plotly.graph_objects as go

    names = [row["family"] for row in families][::-1]
    values = [row["total_ns"] / 1e6 for row in families][::-1]
    return _titled(go.Figure(go.Bar(x=values, y=names, orientation="h")), "GPU ms, all ranks", "")


def _titled(figure: Any, x: str, y: str) -> Any:
    figure.update_layout(
        xaxis_title=x,
        yaxis_title=y,
        height=380,
        margin={"l": 60, "r": 60, "t": 20, "b": 50},
        template="plotly_white",
    )
    return figure


def _head(result: BenchResult) -> str:
    block, client = result.block, result.client
    virtual_s, wall_s = block.get("virtual_time_s"), block["wall"].get("wall_time_s")
    facts = [
        f"{client.get('completed', 0)} requests in {client.get('duration', 0.0):.2f} virtual s",
        f"CPU time {block['cpu_time']}",
        f"whole run {virtual_s:.1f} virtual s in {wall_s:.1f} s" if virtual_s and wall_s else "",
        ", ".join(f"{name} {number}" for name, number in block.get("versions", {}).items()),
    ]
    title = html_text.escape(f"{client.get('model_id', '')} on {block['gpus']} x {block['gpu']}")
    notes = "<br>".join(html_text.escape(fact) for fact in facts if fact)
    return f'<h1>{title}</h1><p class="note">{notes}</p>'


def _latency_rows(client: dict[str, Any]) -> str:
    columns = [key[: -len("_ttft_ms")] for key in client if key.endswith("_ttft_ms")]
    rows = ""
    for metric in ("ttft", "tpot", "itl", "e2el"):
        values = [client.get(f"{column}_{metric}_ms") for column in columns]
        if any(value is not None for value in values):
            cells = "".join(f"<td>{value:.2f}</td>" if value is not None else "<td></td>" for value in values)
            rows += f"<tr><td>{metric.upper()}</td>{cells}</tr>"
    head = "".join(f"<th>{html_text.escape(column)}</th>" for column in columns)
    return f"<h2>Latency, virtual ms</h2><table><tr><th></th>{head}</tr>{rows}</table>" if rows else ""


def _ttft_parts(block: dict[str, Any]) -> str:
    """TTFT as the engine saw it, split into queue, prefill and the rest (host and network)."""
    parts = block.get("mean_request_parts_ms") or {}
    if not {"queue", "prefill", "time_to_first_token"} <= parts.keys():
        return ""
    rest = max(parts["time_to_first_token"] - parts["queue"] - parts["prefill"], 0.0)
    compute, communication = _compute_share(block)
    rows = [
        ("queue", parts["queue"]),
        ("prefill: compute", parts["prefill"] * compute),
        ("prefill: communication", parts["prefill"] * communication),
        ("host (tokenizer, server, sockets)", rest),
    ]
    cells = "".join(f"<tr><td>{name}</td><td>{value:.2f}</td></tr>" for name, value in rows)
    note = "prefill is split by the run's overall share of communication in predicted GPU time"
    return f'<h2>Mean TTFT by part, ms</h2><table>{cells}</table><p class="note">{note}</p>'


def _compute_share(block: dict[str, Any]) -> tuple[float, float]:
    families = block.get("predicted_time_by_family") or []
    communication = sum(
        row["share"]
        for row in families
        if row["family"].startswith(("comm", "collective", "allreduce", "c10d"))
    )
    return 1.0 - communication, communication


def _confidence(block: dict[str, Any]) -> str:
    share = block.get("confidence_share") or {}
    cells = "".join(
        f"<tr><td>{html_text.escape(name.replace('_', ' '))}</td><td>{value:.1%}</td></tr>"
        for name, value in share.items()
        if value
    )
    return f"<h2>Confidence of predictions, by time</h2><table>{cells}</table>" if cells else ""
