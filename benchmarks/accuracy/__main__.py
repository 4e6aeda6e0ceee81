"""`python -m benchmarks.accuracy [CASE...]`: emulate measured cases, print how far off we are."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

from rich.console import Console

from benchmarks.accuracy.case import Case, CaseError, Series, load_cases, select
from benchmarks.accuracy.records import keep, kept, of_cases, read
from benchmarks.accuracy.runner import Interrupted, Outcome, Variant, run_case, run_one_server
from benchmarks.accuracy.table import case_table, markdown, markdown_of_series, replace_section, series_table
from revati.bench.driver import EXIT_INTERRUPTED
from revati.cli.errors import CliError
from revati.report.summary import crowded, versions


def variants(names: str, cpu_factor: float | None) -> list[Variant]:
    """The variants asked for; `attribution` changes one thing at a time against the default."""
    known = {
        "default": Variant(cpu_factor=cpu_factor),
        "free-host": Variant("free-host", cpu_time="free"),
        "own-kv": Variant("own-kv", cpu_factor=cpu_factor, pin=False),
        "all-ranks": Variant("all-ranks", cpu_factor=cpu_factor, fold_ranks=False),
        "roofline": Variant("roofline", cpu_factor=cpu_factor, latency="roofline"),
        "measured-version": Variant("measured-version", cpu_factor=cpu_factor, measured_version=True),
        "measured-all-ranks": Variant(
            "measured-all-ranks", cpu_factor=cpu_factor, measured_version=True, fold_ranks=False
        ),
    }
    if names == "attribution":
        return [variant for variant in known.values() if not variant.measured_version]
    chosen = names.split(",")
    unknown = [name for name in chosen if name not in known]
    if unknown:
        raise CaseError(f"unknown variant {unknown[0]!r}; known: {', '.join(known)}, attribution")
    return [known[name] for name in chosen]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.accuracy", description=__doc__)
    parser.add_argument("cases", nargs="*", help="case or series ids; default: all")
    parser.add_argument("--list", action="store_true", help="list the cases and stop")
    parser.add_argument("--data", type=Path, help="folder with recorded workloads")
    parser.add_argument("--variants", default="default", help="comma-separated, or `attribution`")
    parser.add_argument("--cpu-factor", type=float, help="scale of charged CPU time")
    parser.add_argument("--json", type=Path, help="write all results here, after every case")
    parser.add_argument("--resume", action="store_true", help="take over what --json holds; run the rest")
    parser.add_argument("--show", action="store_true", help="run nothing; tables of --json or the records")
    parser.add_argument("--keep", action="store_true", help="put the results on record in this repository")
    parser.add_argument("--markdown", type=Path, help="put the tables between the markers of this document")
    parser.add_argument("--logs", type=Path, help="keep the servers' logs in this folder")
    return parser


def run_all(
    chosen: Sequence[Case], arguments: argparse.Namespace, console: Console
) -> tuple[list[Outcome], list[str]]:
    """Run every case in every variant; a failing one is noted and the others go on."""
    outcomes: list[Outcome] = []
    failures: list[str] = []
    if arguments.resume and arguments.json is None:
        raise CaseError("--resume needs --json FILE, results of an earlier run")
    earlier = read(arguments.json) if arguments.resume else {}
    planned = list(jobs(chosen, variants(arguments.variants, arguments.cpu_factor)))
    if not planned:
        raise CaseError(_nothing_to_run(chosen))
    for cases, variant in planned:
        if all((case.id, variant.name) in earlier for case in cases):
            outcomes += [Outcome.from_json(case, variant, earlier[case.id, variant.name]) for case in cases]
            continue
        try:
            if cases[0].series.one_server:
                found = run_one_server(cases, variant, log=arguments.logs)
            else:
                found = [run_case(cases[0], variant, data=arguments.data, log=arguments.logs)]
        except (CaseError, CliError) as error:
            failures.append(f"{cases[0].id} ({variant.name}): {error}")
            console.print(f"[red]{failures[-1]}[/]")
            continue
        outcomes += found
        for outcome in found:
            console.print(case_table(outcome))
            if (words := crowded(outcome.block["wall"].get("host_pace"))) is not None:
                console.print(f"[yellow]{words}[/]")
            earlier[outcome.case.id, variant.name] = outcome.as_json()
        if arguments.json is not None:
            arguments.json.write_text(json.dumps(list(earlier.values()), indent=1) + "\n")
    return outcomes, failures


def shown(chosen: Sequence[Case], path: Path | None) -> list[Outcome]:
    """The results of these cases in a file, or on record where none is named, in their order."""
    if path is None:
        return kept(chosen)
    found = of_cases(read(path), chosen)
    if not found:
        raise CaseError(f"{path} holds no results of these cases; give the file of an earlier run")
    return found


def measured_with_this_engine(series: Series) -> bool:
    """Whether a series was measured with the version of vLLM that is installed."""
    return series.measured_engine == f"vLLM {versions().get('vllm')}"


def _nothing_to_run(chosen: Sequence[Case]) -> str:
    measured = ", ".join(sorted({case.series.measured_engine for case in chosen}))
    return (
        f"no variant applies: vLLM {versions().get('vllm')} is installed, measured was {measured}; "
        "`python -m benchmarks.older_vllm VERSION` makes an environment for `measured-version`"
    )


def jobs(chosen: Sequence[Case], wanted: Sequence[Variant]) -> Iterator[tuple[list[Case], Variant]]:
    """What is emulated in one go: a case, or the chosen points of a series that shares a server."""
    for _, group in groupby(chosen, key=lambda case: case.series.id if case.series.one_server else case.id):
        cases = list(group)
        series = cases[0].series
        for variant in wanted:
            if variant.name == "own-kv" and not series.pinned:
                continue
            if not variant.fold_ranks and series.gpus == 1:
                continue
            if variant.measured_version and not measured_with_this_engine(series):
                continue
            yield cases, variant


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; 0 if every case ran, whatever its error, 1 if one could not be, 130 after a signal."""
    arguments = _parser().parse_args(argv)
    console = Console(highlight=False)
    try:
        chosen = select(load_cases(), arguments.cases)
        variants(arguments.variants, arguments.cpu_factor)
    except CaseError as error:
        print(f"accuracy: {error}", file=sys.stderr)
        return 2
    if arguments.list:
        for case in chosen:
            console.print(f"{case.id}: {case.series.model} on {case.series.gpus} x {case.series.gpu}")
        return 0
    if arguments.logs is not None:
        arguments.logs.mkdir(parents=True, exist_ok=True)
    failures: list[str] = []
    try:
        if arguments.show:
            outcomes = shown(chosen, arguments.json)
        else:
            outcomes, failures = run_all(chosen, arguments, console)
        if arguments.keep:
            for path in keep(outcomes):
                console.print(f"kept: {path}")
    except CaseError as error:
        print(f"accuracy: {error}", file=sys.stderr)
        return 2
    except Interrupted as case:
        where = f"in {arguments.json}; --resume runs the rest" if arguments.json else "lost without --json"
        print(f"accuracy: interrupted in {case}; what had run before is {where}", file=sys.stderr)
        return EXIT_INTERRUPTED
    if len(outcomes) > 1:
        console.print(series_table(outcomes))
    for line in sorted({note for outcome in outcomes for note in outcome.case.series.published_errors}):
        console.print(f"published: {line}")
    if arguments.markdown is not None and outcomes:
        words = shlex.join(["python", "-m", "benchmarks.accuracy", *_shown(argv)])
        said = f"Printed by `{words}`"
        text = arguments.markdown.read_text() if arguments.markdown.exists() else "# Accuracy\n"
        text = replace_section(text, "in short", f"{said}.\n\n{markdown_of_series(outcomes)}")
        points = f"{said}; cells are measured / predicted (error).\n\n{markdown(outcomes)}"
        arguments.markdown.write_text(replace_section(text, "points", points))
    return 1 if failures else 0


def _shown(argv: Sequence[str] | None) -> list[str]:
    """The command line without where data and outputs lie on this machine."""
    words = [word for word in (sys.argv[1:] if argv is None else argv) if word != "--resume"]
    for name in ("--data", "--json", "--markdown", "--logs"):
        while name in words:
            index = words.index(name)
            del words[index : index + 2]
    return words


if __name__ == "__main__":
    sys.exit(main())
