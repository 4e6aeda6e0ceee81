"""Writes a dataset file in ShareGPT's format with chat-like lengths, from a seed and nothing else.

Lengths are log-normal, clipped to what `vllm bench serve` keeps of ShareGPT (prompts of 4 to 1024 tokens,
prompt and answer up to 2048 together). The text is random words of the local tokenizer: lengths are exact in
its tokens and prompts share no prefix. With wanted totals, the lengths are scaled to sum up to them exactly.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy

if TYPE_CHECKING:
    from numpy.typing import NDArray

MIN_TOKENS = 4
MAX_PROMPT_TOKENS = 1024
MAX_TOTAL_TOKENS = 2048


@dataclass(frozen=True)
class LengthModel:
    """Log-normal lengths in tokens: medians and standard deviations of the logarithm.

    The defaults have a mean near 190 tokens in and 240 out and a wide spread, as filtered ShareGPT has.
    """

    prompt_median: float = 90.0
    prompt_sigma: float = 1.4
    output_median: float = 140.0
    output_sigma: float = 1.05


def sample_lengths(
    count: int,
    seed: int,
    model: LengthModel | None = None,
    *,
    total_prompt_tokens: int | None = None,
    total_output_tokens: int | None = None,
) -> tuple[NDArray[numpy.int64], NDArray[numpy.int64]]:
    """Draw `count` (prompt, output) lengths; with totals given, their sums equal them."""
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count}")
    model = model or LengthModel()
    rng = numpy.random.default_rng(seed)
    prompts = numpy.exp(rng.normal(numpy.log(model.prompt_median), model.prompt_sigma, count))
    outputs = numpy.exp(rng.normal(numpy.log(model.output_median), model.output_sigma, count))
    prompt_lens = _fit_total(prompts, MIN_TOKENS, numpy.full(count, MAX_PROMPT_TOKENS), total_prompt_tokens)
    output_lens = _fit_total(outputs, MIN_TOKENS, MAX_TOTAL_TOKENS - prompt_lens, total_output_tokens)
    return prompt_lens, output_lens


def _fit_total(
    values: NDArray[numpy.float64], low: int, high: NDArray[numpy.int64], total: int | None
) -> NDArray[numpy.int64]:
    """Round into [low, high]; if a total is wanted, scale first, then hand out the rounding rest."""
    if total is None:
        return numpy.clip(numpy.rint(values), low, high).astype(numpy.int64)
    if not low * len(values) <= total <= int(high.sum()):
        raise ValueError(f"{len(values)} lengths of {low} tokens or more cannot sum up to {total}")
    small, large = 1e-6, 1e6
    for _ in range(200):
        scale = (small * large) ** 0.5
        if numpy.clip(values * scale, low, high).sum() < total:
            small = scale
        else:
            large = scale
    lengths = numpy.floor(numpy.clip(values * small, low, high)).astype(numpy.int64)
    return _spread_rest(lengths, high, total)


def _spread_rest(
    lengths: NDArray[numpy.int64], high: NDArray[numpy.int64], total: int
) -> NDArray[numpy.int64]:
    rest = total - int(lengths.sum())
    while rest > 0:
        for index in range(len(lengths)):
            if rest > 0 and lengths[index] < high[index]:
                lengths[index] += 1
                rest -= 1
    return lengths


def make_dataset(
    config: dict[str, Any],
    prompt_lens: NDArray[numpy.int64],
    output_lens: NDArray[numpy.int64],
    seed: int,
) -> list[dict[str, Any]]:
    """Build conversations of the given lengths for the local tokenizer of a model.

    Lengths count the tokens that `tokenizer(text)` gives, one BOS included where the family has it.
    """
    from revati.engines.tokenizer import family_of, vocab_size_of, words_of

    vocab_size = vocab_size_of(config)
    words = numpy.array(words_of(vocab_size, config))
    bos = 1 if family_of(config, vocab_size).adds_bos else 0
    rng = numpy.random.default_rng((seed, 1))

    def text(length: int) -> str:
        return "".join(words[rng.integers(0, len(words), max(int(length) - bos, 1))])

    return [
        {
            "id": f"made-{number}",
            "conversations": [
                {"from": "human", "value": text(prompt_len)},
                {"from": "gpt", "value": text(output_len)},
            ],
        }
        for number, (prompt_len, output_len) in enumerate(zip(prompt_lens, output_lens, strict=True))
    ]


def write_dataset(
    path: Path,
    config: dict[str, Any],
    count: int,
    seed: int,
    *,
    total_prompt_tokens: int | None = None,
    total_output_tokens: int | None = None,
) -> None:
    """Write `count` made conversations for a model to `path` (JSON, ShareGPT's format)."""
    prompt_lens, output_lens = sample_lengths(
        count, seed, total_prompt_tokens=total_prompt_tokens, total_output_tokens=total_output_tokens
    )
    path.write_text(json.dumps(make_dataset(config, prompt_lens, output_lens, seed), indent=0) + "\n")
