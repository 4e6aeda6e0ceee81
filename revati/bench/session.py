"""One benchmark from the user's words to its result: sort flags, find the model, run the world, collect."""

from __future__ import annotations

import dataclasses
import os
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from revati.bench import flags as flag_sorting
from revati.bench.driver import EXIT_INTERRUPTED, environment_for_bench
from revati.bench.plan import BenchPlan, gpus_needed, make_plan
from revati.bench.result import BenchResult, collect
from revati.cli.environment import RunOptions, build_environment
from revati.cli.errors import CliError
from revati.cli.world import WorldResult, run_world
from revati.engines.vllm import versions
from revati.models.catalogue import ModelEntry, find_model
from revati.models.hub import hub_environment, user_hub_cache
from revati.models.materialise import materialise, user_cache

_PLAN_FILE = "bench-plan.json"
_IGNORE_EOS = ("random", "random-mm", "timed_trace")  # datasets: vllm/benchmarks/serve.py, main_async
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "tekken.json", "vocab.json")


@dataclass(frozen=True)
class BenchRequest:
    """What the user asked for: engine and client flags as typed, and the options of the run."""

    words: list[str]
    options: RunOptions
    gpus: int | None = None  # None: as many as the parallelism needs


@dataclass(frozen=True)
class BenchOutcome:
    """What came of it."""

    result: BenchResult
    world: WorldResult
    detailed: bool

    @property
    def exit_code(self) -> int:
        """0 if the client finished, 2 where Revati refused, 130 after an interrupt, else the world's code."""
        if self.world.refusal:
            return 2
        return EXIT_INTERRUPTED if self.result.stage == "interrupted" else self.world.exit_code


@dataclass(frozen=True)
class PreparedBench:
    """A benchmark whose flags are sorted and whose model is found: ready to run."""

    plan: BenchPlan
    options: RunOptions
    detailed: bool


def prepare(request: BenchRequest, run_dir: Path) -> PreparedBench:
    """Sort the flags, find the model, make the plan. `run_dir`: private, made and removed by the caller."""
    flags = _sort(request, run_dir)
    model_name = _model_name(flags)
    try:
        needed = gpus_needed(flags)
        model, engine_model = _resolve_model(model_name, request.options)
        plan = make_plan(flags, run_dir, model=model, engine_model=engine_model)
    except flag_sorting.FlagError as error:
        raise CliError(str(error)) from None
    _check_lengths(request.options, flags)
    gpus = needed if request.gpus is None else request.gpus
    if gpus < needed:
        raise CliError(f"--gpus {gpus} is too few: the parallelism asked for needs {needed}")
    options = dataclasses.replace(request.options, gpus=gpus)
    return PreparedBench(plan, options, detailed="--save-detailed" in flags.values)


def run(request: BenchRequest, run_dir: Path) -> BenchOutcome:
    """Run the benchmark in `run_dir` (private, made and removed by the caller)."""
    prepared = prepare(request, run_dir)
    world = run_plan(prepared.plan, prepared.options)
    return BenchOutcome(collect(prepared.plan, world), world, prepared.detailed)


def _check_lengths(options: RunOptions, flags: flag_sorting.SortedFlags) -> None:
    """Recorded lengths end a request by its end token; refuse where the engine is told to ignore that."""
    if options.output_lengths is None:
        return
    dataset = flags.value("--dataset-name") or "random"
    if "--ignore-eos" in flags.values:
        raise CliError("--output-lengths has no effect with --ignore-eos; leave one of them out")
    if dataset in _IGNORE_EOS:
        raise CliError(
            f"--output-lengths has no effect: with --dataset-name {dataset} `vllm bench serve` always "
            "ignores end tokens; take another dataset, like sharegpt (`revati models sharegpt` makes one)"
        )


def run_plan(plan: BenchPlan, options: RunOptions) -> WorldResult:
    """Run a plan in a world of its own."""
    plan_file = plan.run_dir / _PLAN_FILE
    plan_file.write_text(plan.to_json())
    base_env = hub_environment(plan.server_command, plan.run_dir, options.model_config_dirs)
    return run_world(
        [sys.executable, "-m", "revati.bench.driver", str(plan_file)],
        options,
        run_dir=plan.run_dir,
        base_env=environment_for_bench(base_env),
    )


def _sort(request: BenchRequest, run_dir: Path) -> flag_sorting.SortedFlags:
    try:
        vllm_version = version("vllm")
    except PackageNotFoundError:
        raise CliError(
            f"vLLM is not installed; install it with: pip install vllm=={versions.NEWEST}"
        ) from None
    if why := versions.refusal(vllm_version):
        raise CliError(why)
    _check_torch()
    env = build_environment(request.options, run_dir)
    try:
        table = flag_sorting.load_table(env, user_cache(), vllm_version)
        return flag_sorting.sort_flags(request.words, table)
    except flag_sorting.FlagError as error:
        raise CliError(str(error)) from None
    except RuntimeError as error:
        raise CliError(f"vllm {vllm_version}: {error}", exit_code=1) from None


def _check_torch() -> None:
    from revati.cuda import compatibility

    try:
        compatibility.check()
    except compatibility.BackendMismatchError as error:
        raise CliError(str(error).removeprefix("revati: ")) from None


def _model_name(flags: flag_sorting.SortedFlags) -> str:
    given = flags.value("--model")
    if given is None and flags.positional:
        given = flags.positional.pop(0)
    if flags.positional:
        raise CliError(f"unexpected argument {flags.positional[0]!r}")
    if given is None:
        raise CliError(
            "--model is missing: an id (`revati models` lists them) or a folder with a config.json"
        )
    return given


def _resolve_model(name: str, options: RunOptions) -> tuple[str, str | None]:
    """(name for requests, what the engine loads if that differs)."""
    folder = Path(name)
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise CliError(f"--model: {name} has no config.json")
        if any((folder / file).exists() for file in _TOKENIZER_FILES):
            return name, None
        return name, str(materialise(ModelEntry(folder.resolve().name, folder)))
    entry = find_model(name, options.model_config_dirs)
    if entry is not None:
        return entry.model_id, None
    cached = user_hub_cache(os.environ) / ("models--" + name.replace("/", "--"))
    if any(cached.glob("snapshots/*/config.json")):
        return name, None
    raise CliError(
        f"--model: {name!r} is neither a known model (`revati models`), nor a folder, nor in the hub cache"
    )
