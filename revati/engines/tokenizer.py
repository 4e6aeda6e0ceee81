"""Makes a fast tokenizer with a model's exact vocabulary size where the real one cannot be fetched.

It is a byte-level BPE, so any text can be encoded. Almost every id is an invented word of up to four letters
with its leading space: a list of word ids decodes to text that encodes to the same ids, which is what load
generators rely on to get prompts of a wanted length. Real prose costs about two characters a token here,
about twice as many tokens as with a real tokenizer: for measured text, bring that (`--tokenizer PATH`).

A server's first token waits for the prompt to be encoded, so that takes the steps that real tokenizers take:
text is split by the expression that GPT-4, Llama 3 and Qwen share, and a word is merged from its letters
unless the family looks up whole words first (`ignore_merges`, Llama 3). `benchmarks/tokenizer_cost.py`
compares.
"""

from __future__ import annotations

import itertools
import json
import string
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from revati.engines.chat_templates import CHAT_TEMPLATES

VERSION = 3  # raise when the files that come out change: cached models are made anew
_SPACE = "Ġ"  # how byte-level BPE writes a leading space
_WORD_LETTERS = 4
_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{digits}"
    r"| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True)
class Family:
    """Special tokens of a model family at real ids, whether prompts start with BOS, how text is split."""

    name: str
    specials: dict[str, int]
    bos: str | None
    eos: str
    pad: str | None
    adds_bos: bool
    digits: str = "{1,3}"  # of a number that make a piece
    ignore_merges: bool = False


def _numbered(names: Iterable[str], first_id: int) -> dict[str, int]:
    return {name: first_id + offset for offset, name in enumerate(names)}


def _llama3() -> Family:
    named = {
        "<|begin_of_text|>": 128000,
        "<|end_of_text|>": 128001,
        "<|finetune_right_pad_id|>": 128004,
        "<|start_header_id|>": 128006,
        "<|end_header_id|>": 128007,
        "<|eom_id|>": 128008,
        "<|eot_id|>": 128009,
        "<|python_tag|>": 128010,
    }
    free = [token_id for token_id in range(128000, 128256) if token_id not in named.values()]
    reserved = {f"<|reserved_special_token_{number}|>": token_id for number, token_id in enumerate(free)}
    return Family(
        "llama3", named | reserved, "<|begin_of_text|>", "<|end_of_text|>", "<|finetune_right_pad_id|>", True,
        ignore_merges=True,
    )  # fmt: skip


def _qwen() -> Family:
    names = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    names += [
        f"<|{part}_{side}|>" for part in ("object_ref", "box", "quad", "vision") for side in ("start", "end")
    ]
    names += ["<|vision_pad|>", "<|image_pad|>", "<|video_pad|>", "<tool_call>", "</tool_call>"]
    names += [f"<|{part}|>" for part in ("fim_prefix", "fim_middle", "fim_suffix", "fim_pad")]
    names += ["<|repo_name|>", "<|file_sep|>", "<tool_response>", "</tool_response>", "<think>", "</think>"]
    specials = _numbered(names, 151643)
    return Family("qwen", specials, None, "<|im_end|>", "<|endoftext|>", False, digits="")


def _mistral() -> Family:
    return Family("mistral", _numbered(["<unk>", "<s>", "</s>"], 0), "<s>", "</s>", None, True)


def _deepseek() -> Family:
    begin, end, pad = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜▁pad▁｜>"
    specials = _numbered([begin, end, pad], 0) | _numbered(["<｜User｜>", "<｜Assistant｜>"], 128803)
    return Family("deepseek", specials, begin, end, pad, True)


def _gpt_oss() -> Family:
    specials = {
        "<|startoftext|>": 199998,
        "<|endoftext|>": 199999,
        "<|return|>": 200002,
        "<|constrain|>": 200003,
        "<|channel|>": 200005,
        "<|start|>": 200006,
        "<|end|>": 200007,
        "<|message|>": 200008,
        "<|call|>": 200012,
    }
    return Family("gpt_oss", specials, "<|startoftext|>", "<|return|>", "<|endoftext|>", False)


_FAMILIES = (_llama3(), _qwen(), _mistral(), _deepseek(), _gpt_oss())
_FAMILY_OF_TYPE = {
    "llama": "llama3",
    "qwen2": "qwen",
    "qwen3": "qwen",
    "qwen2_moe": "qwen",
    "qwen3_moe": "qwen",
    "mistral": "mistral",
    "mixtral": "mistral",
    "deepseek_v2": "deepseek",
    "deepseek_v3": "deepseek",
    "gpt_oss": "gpt_oss",
}


def vocab_size_of(config: dict[str, Any]) -> int:
    """Vocabulary size of a Hugging Face config (of its text part for multimodal models)."""
    for part in (config, config.get("text_config") or {}):
        if isinstance(part.get("vocab_size"), int):
            return int(part["vocab_size"])
    raise ValueError("config.json names no vocab_size, so no tokenizer can be made for it")


def family_of(config: dict[str, Any], vocab_size: int) -> Family:
    """Special tokens for a model: its family's if they fit into the vocabulary, else from its token ids."""
    wanted = _FAMILY_OF_TYPE.get(str(config.get("model_type")))
    for family in _FAMILIES:
        if family.name == wanted and max(family.specials.values()) < vocab_size:
            return family
    return _generic_family(config, vocab_size)


def _generic_family(config: dict[str, Any], vocab_size: int) -> Family:
    def first_id(name: str, default: int) -> int:
        value = config.get(name)
        value = value[0] if isinstance(value, list) and value else value
        return value if isinstance(value, int) and 0 <= value < vocab_size else default

    eos_id = first_id("eos_token_id", vocab_size - 1)
    bos_id = first_id("bos_token_id", eos_id)
    specials = {"</s>": eos_id} if bos_id == eos_id else {"<s>": bos_id, "</s>": eos_id}
    bos = "<s>" if "<s>" in specials else None
    return Family("generic", specials, bos, "</s>", None, bos is not None)


def _byte_alphabet() -> list[str]:
    """The 256 characters that byte-level BPE writes bytes as; printable ASCII first, as itself."""
    from tokenizers.pre_tokenizers import ByteLevel

    return sorted(ByteLevel.alphabet())


def build_vocabulary(family: Family, vocab_size: int) -> dict[str, int]:
    """Token to id, `vocab_size` entries: special ones at their ids, bytes, letter pairs, words by length."""
    taken = set(family.specials.values())
    free = iter(token_id for token_id in range(vocab_size) if token_id not in taken)
    pairs = ["".join(pair) for pair in itertools.product(string.ascii_lowercase, repeat=2)]
    words = (
        _SPACE + "".join(letters)
        for length in range(1, _WORD_LETTERS + 1)
        for letters in itertools.product(string.ascii_lowercase, repeat=length)
    )
    vocabulary = dict(family.specials)
    for token, token_id in zip(itertools.chain(_byte_alphabet(), pairs, words), free, strict=False):
        vocabulary[token] = token_id
    if len(vocabulary) != vocab_size:
        raise ValueError(
            f"vocabulary size {vocab_size} is too large for invented words of {_WORD_LETTERS} letters"
        )
    return vocabulary


def _merges(vocabulary: dict[str, int]) -> list[tuple[str, str]]:
    """How tokens come to be from bytes, first things first: words letter by letter, then letter pairs."""
    words = (token for token in vocabulary if len(token) > 1 and token[0] == _SPACE and token[1:].isalpha())
    by_length = sorted(words, key=lambda token: (len(token), vocabulary[token]))
    pairs = (a + b for a, b in itertools.product(string.ascii_lowercase, repeat=2))
    return [(token[:-1], token[-1]) for token in (*by_length, *pairs) if token in vocabulary]


def words_of(vocab_size: int, config: dict[str, Any]) -> list[str]:
    """The longest invented words of a model's tokenizer, leading space included, in id order."""
    vocabulary = build_vocabulary(family_of(config, vocab_size), vocab_size)
    length = _WORD_LETTERS + 1
    return [" " + token[1:] for token in vocabulary if len(token) == length and token[0] == _SPACE]


def write_tokenizer(folder: Path, config: dict[str, Any], *, model_id: str = "") -> None:
    """Write `tokenizer.json` and `tokenizer_config.json` for a model into its folder.

    The result depends on the config alone, byte for byte.
    """
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors

    vocab_size = vocab_size_of(config)
    family = family_of(config, vocab_size)
    vocabulary = build_vocabulary(family, vocab_size)
    bpe = models.BPE(vocab=vocabulary, merges=_merges(vocabulary), ignore_merges=family.ignore_merges)
    tokenizer = Tokenizer(bpe)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_SPLIT.format(digits=family.digits)), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(
        [AddedToken(name, special=True, normalized=False) for name in _special_names(family, vocabulary)]
    )
    if family.adds_bos and family.bos is not None:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{family.bos} $A",
            pair=f"{family.bos} $A {family.bos} $B",
            special_tokens=[(family.bos, family.specials[family.bos])],
        )
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    settings = _settings(family, config, vocabulary)
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=1, sort_keys=True) + "\n")


def _special_names(family: Family, vocabulary: dict[str, int]) -> list[str]:
    """Special tokens by id; bytes that are no character on their own count too.

    A lone byte of a multi-byte character has no text, so load generators must not draw it as a prompt token.
    """
    lone_bytes = [token for token in vocabulary if len(token) == 1 and not token.isascii()]
    return sorted([*family.specials, *lone_bytes], key=vocabulary.__getitem__)


def _settings(family: Family, config: dict[str, Any], vocabulary: dict[str, int]) -> dict[str, Any]:
    longest = config.get("max_position_embeddings") or (config.get("text_config") or {}).get(
        "max_position_embeddings"
    )
    settings: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "model_max_length": longest or 1_000_000,
        "eos_token": _eos_token(family, config),
        "chat_template": CHAT_TEMPLATES[family.name],
        "additional_special_tokens": _special_names(family, vocabulary),
    }
    if family.bos is not None:
        settings["bos_token"] = family.bos
    if family.pad is not None:
        settings["pad_token"] = family.pad
    return settings


def _eos_token(family: Family, config: dict[str, Any]) -> str:
    """The token of the config's (last) end id: instruct models end a turn, base models a text."""
    value = config.get("eos_token_id")
    ids: Sequence[Any] = value if isinstance(value, list) else [value]
    by_id = {token_id: name for name, token_id in family.specials.items()}
    return next((by_id[token_id] for token_id in reversed(ids) if token_id in by_id), family.eos)
