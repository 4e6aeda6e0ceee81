"""Which token is sampled where the value policy's own, 1, is no text in a model's vocabulary.

Ids of some families begin with the special tokens (DeepSeek ends with 1, Mistral begins with it, Gemma has
both there). Such a token has no text, and vLLM's detokenizer (a `DecodeStream` that begins with the prompt)
decodes the whole prompt again for every token until one has: its server would spend on that what no real one
does.
"""

from __future__ import annotations

import os
from typing import Any

from revati.cuda import refusal

DEFAULT, ORDINARY = 1, 1000
"""The device's policy (`csrc/dispatch/values.h`), and an id behind the special tokens of any tokenizer."""
_VARIABLE = "REVATI_TOKEN_ID"
_chosen: str | None = None  # what this process has set it to
_SPECIAL = ("bos_token_id", "eos_token_id", "pad_token_id", "unk_token_id", "decoder_start_token_id")


def special_ids(config: Any) -> set[int]:
    """The special tokens that a Hugging Face config names."""
    ids: set[int] = set()
    for name in _SPECIAL:
        value = getattr(config, name, None)
        ids.update(each for each in (value if isinstance(value, list) else [value]) if isinstance(each, int))
    return ids


def token_id_for(config: Any) -> int:
    """An id with text in the vocabulary of a Hugging Face config."""
    taken = special_ids(config)
    if DEFAULT not in taken:
        return DEFAULT
    size = getattr(config, "vocab_size", None) or 0
    return ORDINARY if size > ORDINARY else next((one for one in range(size) if one not in taken), DEFAULT)


def check(token_id: int, config: Any) -> None:
    """ValueError if an id is not in the vocabulary of a Hugging Face config that tells its size."""
    size = getattr(config, "vocab_size", None)
    if size and token_id >= size:
        text = f"{_VARIABLE}={token_id}: the model's vocabulary has {size} tokens, expected less; or unset it"
        refusal.note(text)
        raise ValueError(text)


def choose(vllm_config: Any) -> None:
    """Set the id for this process and those it starts, unless the user has (`REVATI_TOKEN_ID`).

    Raises:
        ValueError: the user's id is outside the model's vocabulary.
    """
    global _chosen
    model = vllm_config.model_config
    if model is None:
        return
    if asked := os.environ.get(_VARIABLE):
        if asked != _chosen:  # else it was set here, for another model of this process
            check(int(asked), model.hf_text_config)
        return
    token_id = token_id_for(model.hf_text_config)
    if token_id == DEFAULT:
        return
    from revati import _C

    os.environ[_VARIABLE] = _chosen = str(token_id)
    _C.set_token_id(token_id)
