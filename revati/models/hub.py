"""A private view of the hub cache in which models of our catalogue look as if they had been downloaded.

An engine that is told a hub id while the hub is out of reach looks into `$HF_HUB_CACHE`. Each run gets a
cache folder of its own that links the user's real entries and adds the catalogue models that the command
names, so `vllm serve meta-llama/Llama-3.1-8B-Instruct` works unchanged. The user's cache is never written.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from revati.models.catalogue import ModelEntry, list_models
from revati.models.materialise import materialise

_REVISION = "0" * 40  # no real commit has this name


def user_hub_cache(env: Mapping[str, str]) -> Path:
    """Where the hub client of this environment keeps its downloads."""
    if env.get("HF_HUB_CACHE"):
        return Path(env["HF_HUB_CACHE"])
    home = env.get("HF_HOME") or os.path.join(env.get("XDG_CACHE_HOME") or "~/.cache", "huggingface")
    return Path(home).expanduser() / "hub"


def hub_environment(
    command: Sequence[str],
    run_dir: Path,
    config_dirs: Sequence[Path] = (),
    env: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """Return `env` (default: this process's) with a hub cache that serves the models `command` names.

    Unchanged if no argument names a catalogue model that the user's cache lacks.
    """
    result = dict(os.environ if env is None else env)
    cache = user_hub_cache(result)
    wanted = [entry for entry in _named_models(command, config_dirs) if not _is_cached(cache, entry)]
    if wanted:
        view = run_dir / "hub"
        view.mkdir()
        _link_user_entries(cache, view)
        for entry in wanted:
            _add_entry(view, entry)
        result["HF_HUB_CACHE"] = str(view)
    return result


def _named_models(command: Iterable[str], config_dirs: Sequence[Path]) -> list[ModelEntry]:
    words = {word for argument in command for word in re.split(r"[=\s\"',]+", argument)}
    return [entry for entry in list_models(config_dirs) if entry.model_id in words]


def _cache_name(entry: ModelEntry) -> str:
    return "models--" + entry.model_id.replace("/", "--")


def _is_cached(cache: Path, entry: ModelEntry) -> bool:
    return any((cache / _cache_name(entry)).glob("snapshots/*/config.json"))


def _link_user_entries(cache: Path, view: Path) -> None:
    if cache.is_dir():
        for path in cache.iterdir():
            (view / path.name).symlink_to(path.resolve())


def _add_entry(view: Path, entry: ModelEntry) -> None:
    repo = view / _cache_name(entry)
    if repo.is_symlink():
        repo.unlink()  # an incomplete download of the user
    (repo / "refs").mkdir(parents=True)
    (repo / "snapshots").mkdir()
    (repo / "refs" / "main").write_text(_REVISION)
    (repo / "snapshots" / _REVISION).symlink_to(materialise(entry))
