"""`revati profile import | fit | report | show | collect` and `revati gpus`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

app = typer.Typer(
    help="Profiles of real GPUs: measurements, models, and their held-out errors.", no_args_is_help=True
)
REPORT_FILE = "heldout.json"


def _fail(error: Exception | str) -> NoReturn:
    typer.echo(f"error: {error}", err=True)
    raise typer.Exit(2)


def _sources(name: str, version: str, licence: str, root: Path, files: list[Path]) -> list[dict[str, str]]:
    from revati.latency.store import sha256_file

    return [
        {
            "name": name,
            "version": version,
            "licence": licence,
            "file": str(f.relative_to(root)),
            "sha256": sha256_file(f),
        }
        for f in files
    ]


@app.command("import")
def import_(
    source: Annotated[str, typer.Argument(help="aiconfigurator, llmservingsim or csv")],
    path: Annotated[Path, typer.Argument(help="wheel or folder; folder with RTX4090/...; CSV file")],
    gpu: Annotated[str, typer.Option(help="id of the GPU, as `revati gpus` lists them")],
    engine: Annotated[str, typer.Option(help="aiconfigurator: whose kernels")] = "vllm",
    out: Annotated[Path | None, typer.Option(help="file to write; default: the measurements folder")] = None,
) -> None:
    """Turn third-party measurements into a measurement file (docs/latency.md has the schema)."""
    from revati.profiler import measure, recipes
    from revati.spec import load_spec

    try:
        load_spec(gpu)
        if not path.exists():
            raise measure.MeasurementError(f"{path}: no such file or folder")
        if source == "aiconfigurator":
            from revati.profiler.importers import aiconfigurator

            root = aiconfigurator.data_root(path)
            frame = aiconfigurator.load(root, gpu, engine)
            files = sorted(aiconfigurator.source_files(root, gpu, engine).values())
            sources = _sources(
                "aiconfigurator-core", aiconfigurator.VERSION, aiconfigurator.LICENCE, root, files
            )
        elif source == "llmservingsim":
            from revati.profiler.importers import llmservingsim

            frame = llmservingsim.load(path, gpu)
            version = "+".join(sorted(frame["engine_version"].unique()))
            files = llmservingsim.source_files(path, gpu)
            sources = _sources("LLMServingSim", f"vLLM {version}", llmservingsim.LICENCE, path, files)
        elif source == "csv":
            import pandas as pd

            frame = pd.read_csv(path)
            frame["gpu"], frame["source"] = gpu, "csv"
            sources = _sources(path.name, "-", "-", path.parent, [path])
        else:
            raise measure.MeasurementError(
                f"source {source!r}: expected aiconfigurator, llmservingsim or csv"
            )
        target = out or recipes.measurement_path(f"{gpu}.{source}")
        measure.write(frame, target, sources)
    except (ValueError, OSError) as error:
        _fail(error)
    counts = ", ".join(f"{n} {family}" for family, n in frame["family"].value_counts().items())
    typer.echo(f"{target}: {len(frame)} measurements ({counts})")


def _rows(gpu: str) -> tuple[Any, Any, list[Path], list[Path], bool]:
    from revati.profiler import measure, recipes
    from revati.profiler.fit import load_rows

    recipe = recipes.recipe_of(gpu)
    files = [recipes.measurement_path(n) for n in recipe.files]
    pool = [recipes.measurement_path(n) for n in recipe.pool]
    if not files:
        raise measure.MeasurementError(
            f"no measurements of {gpu} in {recipes.measurements_dir()}; import or collect"
        )
    for file in files + pool:
        if not file.is_file():
            name, _, source = file.name.removesuffix(".parquet").partition(".")
            raise measure.MeasurementError(
                f"{file}: missing; make it with `revati profile import {source} PATH --gpu {name}`"
            )
    own, other = load_rows(gpu, files, pool)
    return own, other, files, pool, recipe.pool_shapes


@app.command()
def fit(
    gpu: Annotated[str, typer.Argument(help="id of the GPU")],
    out: Annotated[Path | None, typer.Option(help="folder to write; default: the profile itself")] = None,
    check: Annotated[
        bool, typer.Option("--check", help="write nothing; compare with the profile, bit for bit")
    ] = False,
) -> None:
    """Fit the models of a profile from its measurement files; the same files give the same bits."""
    import tempfile

    from revati.profiler.fit import fit_profile
    from revati.spec import load_spec, profiles_dir

    try:
        load_spec(gpu)
        _own, _other, files, pool, pool_shapes = _rows(gpu)
        folder = out or profiles_dir() / gpu
        if check:
            with tempfile.TemporaryDirectory() as scratch:
                _compare(gpu, fit_profile(gpu, files, pool, Path(scratch), pool_shapes=pool_shapes))
            return
        provenance = fit_profile(gpu, files, pool, folder, pool_shapes=pool_shapes)
    except (ValueError, OSError) as error:
        _fail(error)
    size = sum((folder / name).stat().st_size for name in provenance["files"])
    typer.echo(f"{folder}: {len(provenance['models'])} models, {size / 1e6:.1f} MB")


def _compare(gpu: str, fresh: dict[str, Any]) -> None:
    """Exit with 1, naming what differs, unless `fresh` is the provenance that the profile of `gpu` ships."""
    from revati.latency.store import load_profile

    kept = load_profile(gpu).provenance
    differ = [n for n, digest in fresh["files"].items() if kept.get("files", {}).get(n) != digest]
    for field in ("sources", "xgboost", "numpy", "models"):
        if kept.get(field) != fresh[field]:
            differ.append(f"{field} in provenance.json")
    if differ:
        typer.echo(f"{gpu}: differs from the profile: {', '.join(differ)}", err=True)
        raise typer.Exit(1)
    typer.echo(f"{gpu}: {len(fresh['files'])} files, all as in the profile, bit for bit")


@app.command()
def report(
    gpu: Annotated[str, typer.Argument(help="id of the GPU")],
    write: Annotated[
        bool, typer.Option("--write", help="also keep it in the profile (heldout.json)")
    ] = False,
    baseline: Annotated[
        Path | None, typer.Option(help="unpacked aiconfigurator-core: adds its own estimates")
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option("--only", help='families that begin so, such as "gemm bf16"')
    ] = None,
) -> None:
    """Held-out errors: fit without some shapes, predict them. Ours, and the roofline on the same rows."""
    from dataclasses import asdict

    from rich.console import Console

    from revati.profiler import heldout
    from revati.profiler.baseline import Baseline
    from revati.spec import load_spec, profiles_dir

    console = Console(stderr=True)
    try:
        load_spec(gpu)
        own, other, _files, _pool, pool_shapes = _rows(gpu)
        theirs = Baseline(baseline, gpu) if baseline is not None else None
        with console.status("fitting") as status:
            results = heldout.all_results(
                gpu, own, other, pool_shapes, status.update, theirs, only or ()
            )  # fmt: skip
    except (ValueError, OSError) as error:
        _fail(error)
    rows = [asdict(result) for result in results]
    _print_report(gpu, rows)
    if write:
        _keep_report(profiles_dir() / gpu, gpu, rows, whole=not only)


def _keep_report(folder: Path, gpu: str, rows: list[dict[str, Any]], *, whole: bool) -> None:
    """Write the report; of a partial one, the other rows stay if they are of the same models."""
    from revati.latency.store import PROVENANCE_FILE, sha256_file
    from revati.profiler.table import kept_rows

    path, provenance = folder / REPORT_FILE, folder / PROVENANCE_FILE
    models = sha256_file(provenance) if provenance.is_file() else ""
    if not whole and path.is_file() and json.loads(path.read_text()).get("provenance_sha256") == models:
        fresh = {(row["family"], row["split"]) for row in rows}
        rows = [r for r in kept_rows(folder) if (r["family"], r["split"]) not in fresh] + rows
    text = json.dumps({"gpu": gpu, "provenance_sha256": models, "rows": rows}, indent=1)
    path.write_text(text + "\n")


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f}%"


def _print_report(gpu: str, rows: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{gpu}: error at held-out shapes (mean absolute, percent)")
    for name in (
        "family",
        "left out",
        "rows",
        "ours",
        "median",
        "p95",
        "top 10% FLOPs",
        "AIConfigurator",
        "roofline",
    ):
        table.add_column(name, justify="left" if name in ("family", "left out") else "right")
    for row in rows:
        table.add_row(
            row["family"], row["split"], str(row["rows"]), _percent(row["ours"]), _percent(row["median"]),
            _percent(row["p95"]), _percent(row["top_flops"]), _percent(row.get("aiconfigurator")),
            _percent(row["roofline"]),
        )  # fmt: skip
    Console(width=150).print(table)


@app.command()
def table() -> None:
    """The held-out table of all profiles as Markdown, from their reports."""
    from revati.profiler.table import markdown

    try:
        typer.echo(markdown())
    except (ValueError, OSError, KeyError) as error:
        _fail(error)


@app.command()
def show(gpu: Annotated[str, typer.Argument(help="id of the GPU")]) -> None:
    """What a profile holds: spec, models with sources, ranges and held-out errors."""
    from rich.console import Console
    from rich.table import Table

    from revati.latency.store import load_profile

    try:
        profile = load_profile(gpu)
        profile.check_files()
    except (ValueError, OSError) as error:
        _fail(error)
    spec = profile.spec
    typer.echo(f"{spec.id}: {spec.name}, {spec.memory_bytes / 2**30:.2f} GiB, {spec.sm_count} SMs, "
               f"{spec.hbm_bytes_per_s / 1e12:.2f} TB/s, {spec.peak_flops.bf16 / 1e12:.0f} TF")  # fmt: skip
    table = Table("model", "rows", "pooled", "timing", "implementations", "engine")
    for name, entry in sorted(profile.provenance.get("models", {}).items()):
        table.add_row(
            name, str(entry["rows"]), str(entry.get("pooled_rows", 0)), entry["timing"],
            ", ".join(entry["implementations"]), ", ".join(entry["engine_versions"]),
        )  # fmt: skip
    console = Console(width=150)
    console.print(table)
    table = Table("bandwidth family", "start us", "HBM", "L2", "fit error", "source")
    for name, model in sorted(profile.bandwidth.items()):
        table.add_row(
            name, f"{model.start_ns / 1e3:.2f}", f"{model.hbm_efficiency:.2f}", f"{model.l2_efficiency:.2f}",
            "-" if model.error is None or model.error != model.error else _percent(model.error), model.source,
        )  # fmt: skip
    console.print(table)
    for source in profile.provenance.get("sources", []):
        typer.echo(
            f"{source['name']} {source['version']} ({source['licence']}) "
            f"{source['file']} {source['sha256'][:12]}"
        )
    if missing := profile.families_missing():
        typer.echo(f"no model of {', '.join(missing)}: priced by the roofline; an error with --strict")
    kept = profile.folder / REPORT_FILE
    if kept.is_file():
        _print_report(gpu, json.loads(kept.read_text())["rows"])


@app.command()
def collect(
    gpu: Annotated[str, typer.Option(help="id of the profile that these measurements are for")],
    model: Annotated[
        Path | None, typer.Option(help="config.json of the model whose ops are measured")
    ] = None,
    tp: Annotated[str, typer.Option(help="tensor parallel degrees, such as 1,2,4")] = "1",
    shapes: Annotated[Path | None, typer.Option(help="JSON lines of shapes, instead of --model")] = None,
    engine: Annotated[str, typer.Option(help="whose kernels")] = "vllm",
    repeats: Annotated[int, typer.Option(min=1, help="replays of each op")] = 20,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="list the shapes, measure nothing")] = False,
) -> None:
    """Measure ops on the GPU of this machine; interrupted, it goes on where it stopped. Then: fit.

    With --model, the engine first runs the model on the virtual device, which tells what has to be measured.
    """
    from importlib import metadata

    from rich.console import Console
    from rich.progress import BarColumn, TextColumn
    from rich.progress import Progress as Bar

    from revati.profiler import collect as collector
    from revati.profiler import measure, recipes
    from revati.profiler.shapes import read_shapes
    from revati.spec import load_spec

    try:
        spec = load_spec(gpu)
        if (model is None) == (shapes is None):
            raise measure.MeasurementError("give either --model config.json or --shapes file.jsonl")
        if shapes is not None:
            todo = read_shapes(shapes)
        else:
            assert model is not None
            todo = _recorded_shapes(model, tp, gpu, engine)
        if dry_run:
            for shape in todo:
                typer.echo(json.dumps(shape))
            return
        timer = _timer()
        if timer.gpu_name != spec.name:
            raise measure.MeasurementError(
                f"this GPU is {timer.gpu_name!r}, profile {gpu} is of {spec.name!r}"
            )
        journal = recipes.measurements_dir() / f"{gpu}.collect.jsonl"
        with Bar(TextColumn("{task.description}"), BarColumn(), console=Console(stderr=True)) as bar:
            task = bar.add_task("measuring", total=len(todo))

            def note(progress: collector.Progress) -> None:
                text = f"{progress.name} {collector.left_text(progress)}"
                bar.update(task, completed=progress.done, total=progress.total, description=text)

            version = metadata.version(engine)
            records = collector.collect(
                todo, timer, journal, engine=f"{engine} {version}", repeats=repeats, note=note
            )
        frame = collector.to_frame(records, gpu, engine, version)
        target = recipes.measurement_path(f"{gpu}.collect")
        measure.write(frame, target, [{"name": "revati profile collect", "version": version,
                                       "licence": "-", "file": journal.name, "sha256": "-"}])  # fmt: skip
    except (ValueError, OSError, metadata.PackageNotFoundError) as error:
        _fail(error)
    failed = sum("error" in record for record in records)
    typer.echo(f"{target}: {len(frame)} measurements, {failed} shapes failed; next: revati profile fit {gpu}")


def _recorded_shapes(model: Path, tp: str, gpu: str, engine: str) -> list[dict[str, Any]]:
    """Shapes of `model` at each tensor parallel degree of `tp` ("1,2"), recorded on the virtual device."""
    from rich.console import Console

    from revati.profiler import recording, shapes
    from revati.profiler.measure import MeasurementError

    degrees = [part.strip() for part in tp.split(",")]
    if not all(part.isdigit() and int(part) > 0 for part in degrees):
        raise MeasurementError(f"--tp {tp}: expected positive numbers such as 1,2,4")
    rows = []
    with Console(stderr=True).status("recording") as status:
        for degree in degrees:
            status.update(f"recording {engine} with {model.parent.name or model} on {degree} virtual GPUs")
            rows += recording.record(model, gpu=gpu, engine=engine, tensor_parallel=int(degree))
    launches = shapes.from_log(rows)
    if launches.not_measured:
        names = ", ".join(sorted(launches.not_measured))
        typer.echo(f"launched, but not measured by collect: {names}", err=True)
    return list(shapes.grid(launches))


def _timer() -> Any:
    from revati.profiler.cuda_timer import CudaTimer

    return CudaTimer()


def gpus() -> None:
    """GPUs that can be emulated: source of their numbers, families covered, held-out error."""
    from rich.console import Console
    from rich.table import Table

    from revati.latency.store import load_profile
    from revati.spec import list_gpus

    table = Table(
        "id",
        "name",
        "memory GiB",
        "families with models",
        "source",
        "held-out error (gemm / decode / prefill)",
    )
    try:
        for gpu in list_gpus():
            profile = load_profile(gpu)
            models = profile.provenance.get("models", {})
            sources = sorted({f"{s['name']} {s['version']}" for s in profile.provenance.get("sources", [])})
            table.add_row(
                gpu, profile.spec.name, f"{profile.spec.memory_bytes / 2**30:.1f}",
                ", ".join(sorted(models)) or "none (roofline)", "\n".join(sources) or "-",
                _kept_errors(profile.folder),
            )  # fmt: skip
    except (ValueError, OSError) as error:
        _fail(error)
    Console(width=170).print(table)


def _kept_errors(folder: Path) -> str:
    path = folder / REPORT_FILE
    if not path.is_file():
        return "not reported"
    wanted = {"gemm bf16": "unseen (n, k) pairs", "decode attention": "unseen", "prefill attention": "unseen"}
    found: dict[str, str] = {}
    for row in json.loads(path.read_text())["rows"]:
        if row["family"] in wanted and row["split"].startswith(wanted[row["family"]]):
            found.setdefault(row["family"], _percent(row["ours"]))
    return " / ".join(found.get(name, "-") for name in wanted)
