"""Tables of measured, predicted and error: for the terminal and for docs/accuracy.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from statistics import fmean

from rich import box
from rich.table import Table

from benchmarks.accuracy.metrics import flatten
from benchmarks.accuracy.runner import Outcome

_WHOLE_RUN = ("duration_s", "output_tokens_per_s")
_COLUMNS = {  # by the statistic that was published
    "mean": ("ttft_ms.mean", "tpot_ms.mean", "itl_ms.p99", "e2el_ms.mean", *_WHOLE_RUN),
    "p95": ("ttft_ms.p95", "tpot_ms.p95", "itl_ms.p50", "e2el_ms.p95", *_WHOLE_RUN),
    "p50": ("ttft_ms.p50", "ttft_ms.p99", "tpot_ms.p50", "tpot_ms.p99", "output_tokens_per_s"),
}
_TITLES = {"duration_s": "duration, s", "output_tokens_per_s": "output tokens/s"}


def case_table(outcome: Outcome) -> Table:
    """Every metric of one case."""
    measured = flatten(outcome.case.point.measured)
    title = f"{outcome.case.id} ({outcome.variant.name})"
    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left")
    table.add_column("metric")
    for header in ("measured", "predicted", "error", "goal"):
        table.add_column(header, justify="right")
    goals = outcome.case.series.goal.percent
    for name in dict.fromkeys([*measured, *outcome.predicted]):
        error, goal = outcome.error_percent.get(name), goals.get(name)
        colour = "" if error is None or goal is None else ("[green]" if abs(error) <= goal else "[red]")
        table.add_row(
            name,
            f"{measured[name]:.2f}" if name in measured else "",
            f"{outcome.predicted[name]:.2f}" if name in outcome.predicted else "",
            f"{colour}{error:+.1f}%" if error is not None else "",
            f"{goal:.0f}%" if goal is not None else "",
        )
    return table


def markdown(outcomes: Sequence[Outcome]) -> str:
    """Rows of measured, predicted and error: a table for each statistic that was published."""
    tables = []
    for statistic, columns in _COLUMNS.items():
        own = [one for one in outcomes if _published(one) == statistic]
        tables.append(_markdown(own, columns))
    return "\n".join(table for table in tables if table)


_SERIES_HEADERS = ("case", "GPUs", "model", "measured engine", "variant", "points")
_SERIES_METRICS = {  # the first that was published
    "TTFT": ("ttft_ms.mean", "ttft_ms.p95", "ttft_ms.p50"),
    "TPOT": ("tpot_ms.mean", "tpot_ms.p95", "tpot_ms.p50"),
    "ITL, median": ("itl_ms.p50",),
    "ITL, p99": ("itl_ms.p99",),
    "E2EL": ("e2el_ms.mean", "e2el_ms.p95"),
    "duration": ("duration_s",),
    "tokens/s": ("output_tokens_per_s",),
}


def series_rows(outcomes: Sequence[Outcome]) -> list[tuple[str, ...]]:
    """Errors of each series and variant over its points: mean of absolute ones (the largest), as text.

    Means where they were published, 95th percentiles or medians elsewhere.
    """

    def key(outcome: Outcome) -> tuple[str, str]:
        return outcome.case.series.id, outcome.variant.name

    rows = []
    for (_, variant), group in groupby(sorted(outcomes, key=key), key=key):
        points = list(group)
        series = points[0].case.series
        cells = []
        for names in _SERIES_METRICS.values():
            errors = [_first(one.error_percent, names) for one in points]
            cells.append(_mean_and_largest([error for error in errors if error is not None]))
        about = (series.id, f"{series.gpus} x {series.gpu}", series.model, series.measured_engine)
        rows.append((*about, variant, str(len(points)), *cells))
    return rows


def _first(errors: Mapping[str, float], names: Sequence[str]) -> float | None:
    return next((errors[name] for name in names if name in errors), None)


def _mean_and_largest(errors: Sequence[float]) -> str:
    if not errors:
        return ""
    if len(errors) == 1:
        return f"{errors[0]:+.1f}%"
    return f"{fmean(map(abs, errors)):.1f}% ({max(errors, key=abs):+.1f}%)"


def series_table(outcomes: Sequence[Outcome]) -> Table:
    """`series_rows` for the terminal, without what the case files say."""
    title = "errors: mean of absolute ones (the largest)"
    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left")
    about = {"GPUs", "model", "measured engine"}
    shown = [number for number, header in enumerate(_SERIES_HEADERS) if header not in about]
    for header in (*(_SERIES_HEADERS[number] for number in shown), *_SERIES_METRICS):
        table.add_column(header, justify="right" if header in _SERIES_METRICS else "left")
    for row in series_rows(outcomes):
        table.add_row(*(row[number] for number in shown), *row[len(_SERIES_HEADERS) :])
    return table


def markdown_of_series(outcomes: Sequence[Outcome]) -> str:
    """`series_rows` for a document."""
    return _lines([*_SERIES_HEADERS, *_SERIES_METRICS], series_rows(outcomes))


def _lines(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [headers, ["---"] * len(headers), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _published(outcome: Outcome) -> str:
    measured = flatten(outcome.case.point.measured)
    return next((one for one in _COLUMNS if f"ttft_ms.{one}" in measured), "mean")


def _title(name: str) -> str:
    latency, _, statistic = name.partition("_ms.")
    return _TITLES.get(name) or f"{latency.upper()} {statistic}, ms"


def _markdown(outcomes: Sequence[Outcome], columns: Sequence[str]) -> str:
    if not outcomes:
        return ""
    rows = []
    for outcome in outcomes:
        measured = flatten(outcome.case.point.measured)
        cells = [_cell(measured.get(name), outcome.predicted.get(name)) for name in columns]
        misses = outcome.misses()
        verdict = (
            "none set"
            if not outcome.case.series.goal.percent
            else "met"
            if not misses
            else "missed: " + ", ".join(misses)
        )
        rows.append([outcome.case.id, outcome.variant.name, *cells, verdict])
    return _lines(["case", "variant", *map(_title, columns), "goal"], rows)


def _cell(measured: float | None, predicted: float | None) -> str:
    if measured is None or predicted is None:
        return "" if predicted is None else f"{predicted:.2f}"
    return f"{measured:.2f} / {predicted:.2f} ({(predicted / measured - 1) * 100:+.1f}%)"


def replace_section(text: str, name: str, section: str) -> str:
    """Put `section` between the markers of that name in a document (appended with markers if it has none)."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    if begin not in text or end not in text:
        return f"{text.rstrip()}\n\n{begin}\n{section}{end}\n"
    head, _, rest = text.partition(begin)
    return f"{head}{begin}\n{section}{end}{rest.partition(end)[2]}"
