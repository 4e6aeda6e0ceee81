"""`revati models`: list the shipped model descriptions, or make a folder (or dataset) for one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from revati.cli.errors import CliError
from revati.cli.options import ModelConfigs

if TYPE_CHECKING:
    from revati.models.catalogue import ModelEntry


def register(app: typer.Typer) -> None:
    """Add `models` and its sub-commands to the application."""
    models = typer.Typer(help="List known models; make a model folder or a dataset.", rich_markup_mode=None)
    models.callback(invoke_without_command=True)(list_command)
    models.command("path")(path_command)
    models.command("sharegpt")(sharegpt_command)
    app.add_typer(models, name="models")


def list_command(context: typer.Context, model_configs: ModelConfigs = None) -> None:
    """List the models that can be named by id."""
    if context.invoked_subcommand is not None:
        return
    from revati.models.catalogue import list_models

    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("model", no_wrap=True)
    for header in ("type", "layers", "hidden", "vocabulary", "quantisation"):
        table.add_column(header)
    for entry in list_models(tuple(model_configs or ())):
        config = entry.config()
        quantisation = (config.get("quantization_config") or {}).get("quant_method", "none")
        table.add_row(
            entry.model_id,
            str(config.get("model_type")),
            str(config.get("num_hidden_layers")),
            str(config.get("hidden_size")),
            str(config.get("vocab_size")),
            quantisation,
        )
    Console(highlight=False).print(table)


def path_command(model: Annotated[str, typer.Argument()], model_configs: ModelConfigs = None) -> None:
    """Print a folder an engine can load MODEL from (config and local tokenizer), making it if need be."""
    from revati.models.materialise import materialise

    print(materialise(_entry(model, model_configs)))


def sharegpt_command(
    model: Annotated[str, typer.Argument()],
    output: Annotated[Path, typer.Argument(help="File to write.")],
    count: Annotated[int, typer.Option(help="Number of conversations.")] = 1000,
    seed: int = 0,
    model_configs: ModelConfigs = None,
) -> None:
    """Write a dataset with ShareGPT-like lengths for MODEL, for `--dataset-name sharegpt --dataset-path`."""
    from revati.models.sharegpt import write_dataset

    try:
        write_dataset(output, _entry(model, model_configs).config(), count, seed)
    except (ValueError, OSError) as error:
        raise CliError(f"cannot write the dataset: {error}") from None
    print(output)


def _entry(model: str, model_configs: list[Path] | None) -> ModelEntry:
    from revati.models.catalogue import find_model

    entry = find_model(model, tuple(model_configs or ()))
    if entry is None:
        raise CliError(f"unknown model {model!r}; `revati models` lists the known ones")
    return entry
