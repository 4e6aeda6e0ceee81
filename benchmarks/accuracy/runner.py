"""Emulates one case and returns what it predicted."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from benchmarks.accuracy import older_client
from benchmarks.accuracy.case import DATA_ENV, Case, CaseError, Series, Workload
from benchmarks.accuracy.metrics import errors_percent, flatten, from_bench, from_requests, medians
from benchmarks.environment import with_benchmarks
from revati.bench import session
from revati.bench.plan import CLIENT_RESULT, SERVER_LOG, BenchPlan, free_port
from revati.bench.result import BenchResult, collect
from revati.cli.environment import RunOptions
from revati.cli.world import make_run_dir, remove_run_dir, run_world
from revati.engines.vllm.versions import is_older
from revati.models.catalogue import find_model
from revati.models.materialise import materialise
from revati.models.sharegpt import write_dataset
from revati.report.ops import load_json
from revati.report.summary import run_block, versions

_EXIT_OF_SIGNALS = (128 + signal.SIGINT, 128 + signal.SIGTERM)


class Interrupted(Exception):
    """A signal ended the run of a case: the others are not to be run either."""


@dataclass(frozen=True)
class Variant:
    """How a case is emulated; the default is what a user gets."""

    name: str = "default"
    cpu_time: str = "charged"
    cpu_factor: float | None = None
    latency: str = "profile"
    pin: bool = True  # take over what the real engine resolved (KV blocks)
    fold_ranks: bool = True  # one process for all tensor-parallel ranks: the same results, less work
    measured_version: bool = False  # by the engine's version that was measured


@dataclass(frozen=True)
class Outcome:
    """One emulated case beside its measurement."""

    case: Case
    variant: Variant
    predicted: dict[str, float]
    error_percent: dict[str, float]
    block: dict[str, Any]  # the `revati` block of the run

    def as_json(self) -> dict[str, Any]:
        """Everything but the objects, for the result file."""
        return {
            "case": self.case.id,
            "gpu": self.case.series.gpu,
            "model": self.case.series.model,
            "measured_engine": self.case.series.measured_engine,
            "emulated_engine": f"vLLM {versions().get('vllm', '?')}",
            "variant": dataclasses.asdict(self.variant),
            "measured": flatten(self.case.point.measured),
            "predicted": self.predicted,
            "error_percent": self.error_percent,
            "revati": self.block,
        }

    @classmethod
    def from_json(cls, case: Case, variant: Variant, entry: dict[str, Any]) -> Outcome:
        """An outcome that `as_json` wrote, against the case's measurements of today."""
        predicted = {name: float(value) for name, value in entry["predicted"].items()}
        errors = errors_percent(flatten(case.point.measured), predicted)
        return cls(case, variant, predicted, errors, entry["revati"])

    def misses(self) -> list[str]:
        """Metrics that exceed the goal of their series."""
        goals = self.case.series.goal.percent
        return [name for name, limit in goals.items() if abs(self.error_percent.get(name, 0.0)) > limit]


def data_folder(case: Case, data: Path | None) -> Path:
    """Folder of a recorded workload."""
    root = data or (Path(os.environ[DATA_ENV]) if os.environ.get(DATA_ENV) else None)
    if root is None:
        raise CaseError(f"{case.id} replays recorded requests: give their folder with --data or ${DATA_ENV}")
    folder = root / (case.series.workload.folder or "")
    if not (folder / "workload.jsonl").is_file():
        raise CaseError(f"{case.id}: {folder / 'workload.jsonl'} does not exist")
    return folder


def run_case(
    case: Case, variant: Variant | None = None, *, data: Path | None = None, log: Path | None = None
) -> Outcome:
    """Emulate a case to its end."""
    variant = variant or Variant()
    with _run_dir() as run_dir:
        if case.series.client == "http":
            predicted, block = _run_http(case, variant, run_dir, log)
        else:
            predicted, block = _run_in_process(case, variant, run_dir, data)
    return _outcome(case, variant, flatten(predicted), block)


def _outcome(case: Case, variant: Variant, predicted: dict[str, float], block: dict[str, Any]) -> Outcome:
    errors = errors_percent(flatten(case.point.measured), predicted)
    return Outcome(case, variant, predicted, errors, block)


def options_for(case: Case, variant: Variant) -> RunOptions:
    """Options of the run that emulates a case."""
    return RunOptions(
        gpu=case.series.gpu,
        gpus=case.series.gpus,
        cpu_time=variant.cpu_time,
        cpu_factor=variant.cpu_factor,
        latency=variant.latency,
        fold_ranks=variant.fold_ranks and case.series.gpus > 1,
    )


def bench_words(case: Case, folder: Path, repeat: int = 0) -> list[str]:
    """Flags of `revati bench vllm` for an HTTP case; writes the dataset into `folder` where one is needed."""
    workload, point = case.series.workload, case.point
    words = ["--model", case.series.model, *case.series.flags, *point.flags]
    by_concurrency = (workload.prompts_per_concurrency or 10) * (point.concurrency or 1)
    prompts = workload.prompts or max(workload.min_prompts, by_concurrency)
    words += ["--num-prompts", str(prompts)]
    seed = workload.seed + repeat
    if point.concurrency is not None:
        words += ["--max-concurrency", str(point.concurrency)]
    if workload.kind == "sharegpt_like":
        dataset = folder / "dataset.json"
        entry = find_model(case.series.model)
        if entry is None:
            raise CaseError(f"{case.id}: unknown model {case.series.model}")
        write_dataset(
            dataset,
            entry.config(),
            prompts,
            seed,
            total_prompt_tokens=workload.total_prompt_tokens,
            total_output_tokens=workload.total_output_tokens,
        )
        return [*words, "--dataset-name", "sharegpt", "--dataset-path", str(dataset)]
    if workload.kind == "random":
        words += ["--dataset-name", "random", "--seed", str(seed)]
        words += ["--random-input-len", str(workload.input_tokens)]
        words += ["--random-output-len", str(workload.output_tokens)]
        ratio = 0 if _needs_older_client(workload) else workload.range_ratio
        return [*words, "--random-range-ratio", json.dumps(ratio)]
    raise CaseError(f"{case.id}: an http client cannot replay a workload of kind {workload.kind}")


def _run_http(
    case: Case, variant: Variant, run_dir: Path, log: Path | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    with _environment(_extra_environment(case.series)):
        prepared = session.prepare(_request(case, variant, run_dir), run_dir)
        plan = prepared.plan
        if _needs_older_client(case.series.workload):
            client = [sys.executable, "-m", older_client.__name__, *_arguments(plan.client_command)]
            plan = dataclasses.replace(plan, client_command=client)
        result = collect(plan, session.run_plan(plan, prepared.options))
    _keep_log(run_dir, log, f"{case.id}-{variant.name}")
    _check(case, result, result.client)
    return from_bench(result.client), result.block


def _needs_older_client(workload: Workload) -> bool:
    """Whether the installed vLLM's client cannot draw this workload's lengths by itself."""
    return isinstance(workload.range_ratio, dict) and is_older()


def _arguments(client_command: Sequence[str]) -> Sequence[str]:
    """Of `python -m revati.bench.client ARGUMENTS`."""
    return client_command[client_command.index("-m") + 2 :]


def _check(case: Case, result: BenchResult, client: Mapping[str, Any]) -> None:
    """Whether the run of a case came to its end, with what its client wrote."""
    if result.stage == "interrupted":
        raise Interrupted(case.id)
    if not client:
        raise CaseError(f"{case.id}: the run ended at stage {result.stage!r}: {result.error}")


def _request(
    case: Case, variant: Variant, folder: Path, repeat: int = 0, words: Sequence[str] = ()
) -> session.BenchRequest:
    typed = [*bench_words(case, folder, repeat), *words]
    return session.BenchRequest(typed, options_for(case, variant), case.series.gpus)


def _extra_environment(series: Series) -> Mapping[str, str]:
    if not _needs_older_client(series.workload):
        return {}
    return {older_client.RATIOS: json.dumps(series.workload.range_ratio)}


def _keep_log(run_dir: Path, folder: Path | None, name: str) -> None:
    server_log = run_dir / SERVER_LOG
    if folder is not None and server_log.is_file():
        (folder / f"{name}.log").write_bytes(server_log.read_bytes())


def run_one_server(
    cases: Sequence[Case], variant: Variant | None = None, *, log: Path | None = None
) -> list[Outcome]:
    """Emulate points of one series one after another against one server, as they were measured.

    Their blocks are those of the whole run.
    """
    variant = variant or Variant()
    series = cases[0].series
    with _run_dir() as run_dir, _environment(_extra_environment(series)):
        plans: list[BenchPlan] = []
        port = ["--port", str(free_port())]
        repeats = range(series.workload.repeats)
        for case, repeat in product(cases, repeats):
            folder = run_dir / f"{case.point.id}-{repeat}"
            folder.mkdir()
            prepared = session.prepare(_request(case, variant, folder, repeat, port), folder)
            plans.append(prepared.plan)
        spec = run_dir / "clients.json"
        spec.write_text(json.dumps([plan.client_command for plan in plans]))
        command = [sys.executable, "-m", "benchmarks.accuracy.clients", str(spec)]
        whole = dataclasses.replace(plans[0], run_dir=run_dir, client_command=command)
        result = collect(whole, session.run_plan(whole, prepared.options))
        _keep_log(run_dir, log, f"{series.id}-{variant.name}")
        clients = [load_json(plan.run_dir / CLIENT_RESULT) for plan in plans]
    found: dict[str, list[dict[str, float]]] = {case.id: [] for case in cases}
    for (case, _), client in zip(product(cases, repeats), clients, strict=True):
        _check(case, result, client)
        found[case.id].append(flatten(from_bench(client)))
    return [_outcome(case, variant, medians(found[case.id]), result.block) for case in cases]


def _run_in_process(
    case: Case, variant: Variant, run_dir: Path, data: Path | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    entry = find_model(case.series.model)
    if entry is None:
        raise CaseError(f"{case.id}: unknown model {case.series.model}")
    output, spec = run_dir / "in-process.json", run_dir / "in-process-spec.json"
    engine_args = {
        "model": str(materialise(entry)),
        "load_format": "dummy",
        **case.series.engine_args,
        **(case.series.pinned if variant.pin else {}),
    }
    spec.write_text(
        json.dumps(
            {
                "engine_args": engine_args,
                "requests": str((data_folder(case, data) / "workload.jsonl").resolve()),
                "output": str(output),
            }
        )
    )
    env = with_benchmarks(os.environ)
    command = [sys.executable, "-m", "benchmarks.accuracy.inprocess", str(spec)]
    world = run_world(command, options_for(case, variant), run_dir=run_dir, base_env=env)
    result = load_json(output)
    if world.exit_code in _EXIT_OF_SIGNALS:
        raise Interrupted(case.id)
    if world.exit_code != 0 or not result.get("requests"):
        raise CaseError(f"{case.id}: the engine process ended with code {world.exit_code}")
    block = run_block(world)
    block["engine"] = {"name": "vllm", "num_gpu_blocks": result.get("num_gpu_blocks")}
    return from_requests(result["requests"]), block


@contextmanager
def _environment(extra: Mapping[str, str]) -> Iterator[None]:
    """`extra` for the processes of a run, which can import `benchmarks` too."""
    before = dict(os.environ)
    os.environ.update(with_benchmarks({**before, **extra}))
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextmanager
def _run_dir() -> Iterator[Path]:
    run_dir = make_run_dir()
    try:
        yield run_dir
    finally:
        remove_run_dir(run_dir)
