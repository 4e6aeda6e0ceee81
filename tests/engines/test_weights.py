"""Models without weights are loaded as dummies where the user chose nothing else."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from revati.engines.vllm.weights import choose_load_format


def config(model: str, load_format: str = "auto") -> SimpleNamespace:
    return SimpleNamespace(
        load_config=SimpleNamespace(load_format=load_format), model_config=SimpleNamespace(model=model)
    )


def chosen(model: object, load_format: str = "auto") -> str:
    asked = config(str(model), load_format)
    choose_load_format(asked)
    return str(asked.load_config.load_format)


def test_a_folder_without_weights_gets_dummies(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert chosen(tmp_path) == "dummy"


@pytest.mark.parametrize("name", ["model-00001-of-00002.safetensors", "pytorch_model.bin"])
def test_weights_that_are_there_are_loaded(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    assert chosen(tmp_path) == "auto"


def test_a_hub_id_and_a_chosen_format_are_left_alone(tmp_path: Path) -> None:
    assert chosen("meta-llama/Llama-3.1-8B-Instruct") == "auto"
    assert chosen(tmp_path, "safetensors") == "safetensors"
