"""Finds a model's configuration: among the shipped ones, in folders of the user, or at a local path.

The shipped `config.json` and `generation_config.json` hold the values of the public checkpoints of that name;
no weights and no tokenizer come with them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_SHIPPED = Path(__file__).resolve().parent


@dataclass(frozen=True)
class ModelEntry:
    """One known model: hub id and the folder that holds its `config.json`."""

    model_id: str
    folder: Path

    def config(self) -> dict[str, Any]:
        """Read the model's `config.json`."""
        value = json.loads((self.folder / "config.json").read_text())
        if not isinstance(value, dict):
            raise ValueError(f"{self.folder / 'config.json'}: expected a JSON object")
        return value


def list_models(extra_folders: Sequence[Path] = ()) -> list[ModelEntry]:
    """All known models by id; entries of later folders replace earlier ones of the same id."""
    found: dict[str, ModelEntry] = {}
    for root in (_SHIPPED, *extra_folders):
        for path in sorted(root.glob("*/*/config.json")):
            model_id = f"{path.parent.parent.name}/{path.parent.name}"
            found[model_id] = ModelEntry(model_id, path.parent)
    return [found[model_id] for model_id in sorted(found, key=str.lower)]


def find_model(model_id: str, extra_folders: Sequence[Path] = ()) -> ModelEntry | None:
    """Look a model up by hub id, ignoring case; a unique name without its organisation is enough."""
    models = list_models(extra_folders)
    wanted = model_id.lower()
    exact = [entry for entry in models if entry.model_id.lower() == wanted]
    if exact:
        return exact[0]
    short = [entry for entry in models if entry.model_id.lower().partition("/")[2] == wanted]
    return short[0] if len(short) == 1 else None
