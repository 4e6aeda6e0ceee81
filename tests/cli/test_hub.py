"""The private view of the hub cache."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from revati.models.hub import hub_environment

MODEL = "mistralai/Mixtral-8x7B-v0.1"


@pytest.fixture
def env(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return {"HF_HOME": str(tmp_path / "hf")}


def test_a_named_model_is_found_as_if_downloaded(env: dict[str, str], tmp_path: Path) -> None:
    made = hub_environment(["vllm", "serve", MODEL], tmp_path, env=env)
    from huggingface_hub import snapshot_download

    folder = snapshot_download(MODEL, cache_dir=made["HF_HUB_CACHE"], local_files_only=True)
    assert json.loads((Path(folder) / "config.json").read_text())["num_local_experts"] == 8
    assert (Path(folder) / "tokenizer.json").is_file()


def test_entries_of_the_user_stay_visible(env: dict[str, str], tmp_path: Path) -> None:
    own = tmp_path / "hf" / "hub" / "models--me--mine" / "snapshots" / "abc"
    own.mkdir(parents=True)
    (own / "config.json").write_text("{}")
    made = hub_environment([f"--model={MODEL}"], tmp_path, env=env)
    view = Path(made["HF_HUB_CACHE"])
    assert (view / "models--me--mine" / "snapshots" / "abc" / "config.json").is_file()
    assert not (tmp_path / "hf" / "hub" / "models--mistralai--Mixtral-8x7B-v0.1").exists()


def test_other_commands_are_left_alone(env: dict[str, str], tmp_path: Path) -> None:
    assert hub_environment(["python", "script.py"], tmp_path, env=env) == env


def test_a_real_download_wins(env: dict[str, str], tmp_path: Path) -> None:
    own = tmp_path / "hf" / "hub" / "models--mistralai--Mixtral-8x7B-v0.1" / "snapshots" / "abc"
    own.mkdir(parents=True)
    (own / "config.json").write_text("{}")
    assert hub_environment([MODEL], tmp_path, env=env) == env
