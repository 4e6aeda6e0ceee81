"""The local tokenizer: exact vocabulary, exact round trips, the families' special tokens."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy
import pytest

from revati.engines import tokenizer
from revati.engines.vllm.token_id import check, token_id_for
from revati.models.catalogue import find_model

MODELS = [
    "meta-llama/Llama-3.1-8B-Instruct",
    "Qwen/Qwen3-8B",
    "mistralai/Mixtral-8x7B-v0.1",
    "deepseek-ai/DeepSeek-V3",
    "openai/gpt-oss-120b",
]


def config_of(model_id: str) -> dict[str, Any]:
    entry = find_model(model_id)
    assert entry is not None
    return entry.config()


def load(folder: Path, config: dict[str, Any]) -> Any:
    from transformers import PreTrainedTokenizerFast

    tokenizer.write_tokenizer(folder, config)
    return PreTrainedTokenizerFast.from_pretrained(folder)


@pytest.mark.parametrize("model_id", MODELS)
def test_ids_survive_decode_and_encode(model_id: str, tmp_path: Path) -> None:
    config = config_of(model_id)
    made = load(tmp_path, config)
    assert len(made) == made.vocab_size == config["vocab_size"]
    allowed = numpy.array(sorted(set(range(made.vocab_size)) - set(made.all_special_ids)))
    words = allowed[allowed > 2000]
    ids = numpy.random.default_rng(0).choice(words, 3000).tolist()
    assert made.encode(made.decode(ids), add_special_tokens=False) == ids


@pytest.mark.parametrize("model_id", MODELS)
def test_the_sampled_token_has_text(model_id: str, tmp_path: Path) -> None:
    """Until one has, vLLM's detokenizer decodes the whole prompt again for each token."""
    config = config_of(model_id)
    made = load(tmp_path, config)
    assert made.decode([token_id_for(SimpleNamespace(**config))], skip_special_tokens=True) != ""


def test_only_a_special_first_token_is_replaced() -> None:
    assert token_id_for(SimpleNamespace(vocab_size=32000, bos_token_id=0, eos_token_id=[2, 3])) == 1
    assert token_id_for(SimpleNamespace(vocab_size=32000, bos_token_id=0, eos_token_id=[2, 1])) == 1000
    assert token_id_for(SimpleNamespace(vocab_size=64, bos_token_id=1, eos_token_id=0)) == 2


def test_a_token_id_outside_the_vocabulary_is_refused() -> None:
    check(63, SimpleNamespace(vocab_size=64))
    with pytest.raises(ValueError, match="REVATI_TOKEN_ID=64: the model's vocabulary has 64 tokens"):
        check(64, SimpleNamespace(vocab_size=64))


def test_special_tokens_have_their_real_ids(tmp_path: Path) -> None:
    llama = load(tmp_path, config_of("meta-llama/Llama-3.1-8B-Instruct"))
    assert llama.convert_tokens_to_ids(["<|begin_of_text|>", "<|eot_id|>"]) == [128000, 128009]
    assert llama.eos_token == "<|eot_id|>"
    assert llama("a").input_ids[0] == 128000
    qwen = load(tmp_path, config_of("Qwen/Qwen3-8B"))
    assert qwen.convert_tokens_to_ids("<|im_end|>") == qwen.eos_token_id == 151645
    assert qwen.num_special_tokens_to_add() == 0


def test_any_text_can_be_encoded(tmp_path: Path) -> None:
    made = load(tmp_path, config_of("Qwen/Qwen3-8B"))
    first, second = made.encode("A fox, 42 zebras\n"), made.encode("A dog, 42 zebras\n")
    assert made.decode(first) == "A fox, 42 zebras\n"
    assert first != second  # prompts that differ must not look alike to a prefix cache


def test_the_files_depend_on_the_config_alone(tmp_path: Path) -> None:
    config = config_of("mistralai/Mixtral-8x7B-v0.1")
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        tokenizer.write_tokenizer(tmp_path / name, config)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


@pytest.mark.parametrize("model_id", MODELS)
def test_a_chat_is_rendered(model_id: str, tmp_path: Path) -> None:
    made = load(tmp_path, config_of(model_id))
    rendered = made.apply_chat_template(
        [{"role": "user", "content": "hello"}], add_generation_prompt=True, tokenize=False
    )
    assert "hello" in rendered


def test_an_unknown_family_takes_its_ids_from_the_config(tmp_path: Path) -> None:
    made = load(tmp_path, {"model_type": "new", "vocab_size": 5000, "bos_token_id": 7, "eos_token_id": [9]})
    assert (made.bos_token_id, made.eos_token_id, len(made)) == (7, 9, 5000)


def test_a_config_without_vocabulary_is_refused() -> None:
    with pytest.raises(ValueError, match="vocab_size"):
        tokenizer.vocab_size_of({})
