"""Tables of measured, predicted and error: for the terminal and for docs/accuracy.md."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from statistics import fmean, median

from rich import box
from rich.table import Table

from benchmarks.accuracy.metrics import flatten
from benchmarks.accuracy.runner import Outcome

BEGIN, END = "<!-- accuracy: begin -->", "<!-- accuracy: end -->"
_COLUMNS = ("ttft_ms.mean", "tpot_ms.mean", "itl_ms.p99", "e2el_ms.mean", "duration_s", "output_tokens_per_s")
_COLUMNS_OF_PERCENTILES = (  # where no means were published
    "ttft_ms.p95",
    "tpot_ms.p95",
    "itl_ms.p50",
    "e2el_ms.p95",
    "duration_s",
    "output_tokens_per_s",
)
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
    """Rows of measured, predicted and error, with versions and goals: a table for cases with published means,
    another for those with percentiles only."""
    means = [one for one in outcomes if not _only_percentiles(one)]
    percentiles = [one for one in outcomes if _only_percentiles(one)]
    tables = [_markdown(means, _COLUMNS), _markdown(percentiles, _COLUMNS_OF_PERCENTILES)]
    rows = summary(outcomes)
    if rows:
        lines = ["| " + " | ".join(_SUMMARY_HEADERS) + " |", "|---" * len(_SUMMARY_HEADERS) + "|"]
        tables.append("\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)]) + "\n")
    return "\n".join(table for table in tables if table)


_SUMMARY_HEADERS = ("measured engine", "variant", "metric", "points", "mean error", "median", "largest")


def summary(outcomes: Sequence[Outcome]) -> list[tuple[str, ...]]:
    """Absolute errors over all points of one measured engine version, by metric. Rows of text."""

    def key(outcome: Outcome) -> tuple[str, str]:
        return outcome.case.series.measured_engine, outcome.variant.name

    rows = []
    for (engine, variant), group in groupby(sorted(outcomes, key=key), key=key):
        points = list(group)
        for name in dict.fromkeys((*_COLUMNS, *_COLUMNS_OF_PERCENTILES)):
            errors = [abs(one.error_percent[name]) for one in points if name in one.error_percent]
            if errors:
                figures = (f"{figure(errors):.1f}%" for figure in (fmean, median, max))
                rows.append((engine, variant, _title(name), str(len(errors)), *figures))
    return rows


def summary_table(outcomes: Sequence[Outcome]) -> Table:
    """The same for the terminal."""
    table = Table(title="absolute errors", box=box.SIMPLE_HEAD, title_justify="left")
    for number, header in enumerate(_SUMMARY_HEADERS):
        table.add_column(header, justify="left" if number < 3 else "right")
    for row in summary(outcomes):
        table.add_row(*row)
    return table


def _only_percentiles(outcome: Outcome) -> bool:
    measured = flatten(outcome.case.point.measured)
    return "ttft_ms.p95" in measured and "ttft_ms.mean" not in measured


def _title(name: str) -> str:
    latency, _, statistic = name.partition("_ms.")
    return _TITLES.get(name) or f"{latency.upper()} {statistic}, ms"


def _markdown(outcomes: Sequence[Outcome], columns: Sequence[str]) -> str:
    if not outcomes:
        return ""
    lines = ["| case | variant | measured engine | " + " | ".join(map(_title, columns)) + " | goal |"]
    lines.append("|---" * (len(columns) + 4) + "|")
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
        row = [outcome.case.id, outcome.variant.name, outcome.case.series.measured_engine, *cells, verdict]
        lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines) + "\n"


def _cell(measured: float | None, predicted: float | None) -> str:
    if measured is None or predicted is None:
        return "" if predicted is None else f"{predicted:.2f}"
    return f"{measured:.2f} / {predicted:.2f} ({(predicted / measured - 1) * 100:+.1f}%)"


def replace_section(text: str, section: str) -> str:
    """Put `section` between the markers of a document (appended with markers if it has none)."""
    if BEGIN not in text or END not in text:
        return f"{text.rstrip()}\n\n{BEGIN}\n{section}{END}\n"
    head, _, rest = text.partition(BEGIN)
    return f"{head}{BEGIN}\n{section}{END}{rest.partition(END)[2]}"
