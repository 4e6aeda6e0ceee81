"""Made datasets with chat-like lengths."""

from __future__ import annotations

import numpy
import pytest

from revati.engines.tokenizer import write_tokenizer
from revati.models.catalogue import find_model
from revati.models.sharegpt import make_dataset, sample_lengths


def test_lengths_come_from_the_seed() -> None:
    first, again, other = sample_lengths(50, 1), sample_lengths(50, 1), sample_lengths(50, 2)
    assert all((a == b).all() for a, b in zip(first, again, strict=True))
    assert (first[0] != other[0]).any()


def test_totals_are_met_exactly_within_the_limits() -> None:
    prompts, outputs = sample_lengths(100, 0, total_prompt_tokens=23_260, total_output_tokens=22_061)
    assert (prompts.sum(), outputs.sum()) == (23_260, 22_061)
    assert prompts.min() >= 4 and prompts.max() <= 1024
    assert (prompts + outputs).max() <= 2048


def test_impossible_totals_are_refused() -> None:
    with pytest.raises(ValueError, match="cannot sum up"):
        sample_lengths(10, 0, total_prompt_tokens=5)


@pytest.mark.parametrize("model_id", ["mistralai/Mixtral-8x7B-v0.1"])
def test_texts_have_the_lengths_in_the_models_tokens(model_id: str, tmp_path) -> None:  # type: ignore[no-untyped-def]
    from transformers import PreTrainedTokenizerFast

    entry = find_model(model_id)
    assert entry is not None
    write_tokenizer(tmp_path, entry.config())
    tokenizer = PreTrainedTokenizerFast.from_pretrained(tmp_path)
    prompts, outputs = numpy.array([4, 100, 1024]), numpy.array([8, 7, 600])
    for item, prompt, output in zip(
        make_dataset(entry.config(), prompts, outputs, 3), prompts, outputs, strict=True
    ):
        lengths = [len(tokenizer(turn["value"]).input_ids) for turn in item["conversations"]]
        assert lengths == [prompt, output]
