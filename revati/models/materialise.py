"""Makes a folder that an engine can load a model from: config, generation config and a local tokenizer.

Folders are cached by content, so the few seconds for a large vocabulary are paid once per user.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from revati.models.catalogue import ModelEntry


def user_cache(env: Mapping[str, str] = os.environ) -> Path:
    """Revati's folder in the user's cache (`$XDG_CACHE_HOME/revati`)."""
    base = env.get("XDG_CACHE_HOME") or os.path.join(env.get("HOME") or Path.home(), ".cache")
    return Path(base) / "revati"


def materialise(entry: ModelEntry, root: Path | None = None) -> Path:
    """Return a folder with the model's files and a tokenizer, made on first use.

    A tokenizer beside the config is kept; otherwise one is made (`revati.engines.tokenizer`).
    """
    from revati.engines import tokenizer

    files = _model_files(entry.folder)
    target = (
        root or user_cache() / "models"
    ) / f"{entry.model_id.replace('/', '--')}-{_digest(files, tokenizer.VERSION)}"
    if target.is_dir():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=".making-", dir=target.parent))
    try:
        for path in files:
            shutil.copyfile(path, staging / path.name)
        if not (staging / "tokenizer.json").exists():
            tokenizer.write_tokenizer(staging, entry.config(), model_id=entry.model_id)
        os.chmod(staging, 0o755)
        _publish(staging, target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return target


def _publish(staging: Path, target: Path) -> None:
    try:
        staging.rename(target)
    except OSError:
        if not target.is_dir():  # another process made it meanwhile: the same content, so keep that one
            raise


def _model_files(folder: Path) -> list[Path]:
    return sorted(
        path for path in folder.iterdir() if path.is_file() and path.suffix in (".json", ".jinja", ".txt")
    )


def _digest(files: list[Path], tokenizer_version: int) -> str:
    digest = hashlib.sha256(json.dumps({"tokenizer": tokenizer_version}).encode())
    for path in files:
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]
