"""What it costs to encode a prompt: with the local tokenizers of several models, and with a real vocabulary.

`python -m benchmarks.tokenizer_cost [--tokens 512] [--prompts 200]`. The real one is Mistral's Tekken, a
byte-level BPE of 130,072 tokens that the package mistral_common brings; it is run as Qwen's and as Llama 3's
tokenizers are, that is merging, and looking up whole words first. Prompts are random ids, decoded. Medians:
ms for a prompt, and us for each token that came out.
"""

from __future__ import annotations

import argparse
import base64
import json
import random
import time
from pathlib import Path
from statistics import median

from rich import box
from rich.console import Console
from rich.table import Table
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

from revati.models.catalogue import find_model
from revati.models.materialise import materialise

LOCAL = (
    "Qwen/Qwen3-8B", "meta-llama/Llama-3.1-8B-Instruct", "openai/gpt-oss-120b", "deepseek-ai/DeepSeek-V3",
)  # fmt: skip
MOST_TOKENS = 130_072  # Tekken's; further ones are never used


def tekken(*, ignore_merges: bool) -> Tokenizer:
    """Mistral's vocabulary in a tokenizer of the tokenizers library."""
    import mistral_common
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    path = Path(mistral_common.__file__).parent / "data" / "tekken_240911.json"
    content = json.loads(path.read_text())
    table = bytes_to_unicode()  # how byte-level BPE writes each byte
    vocabulary: dict[str, int] = {}
    for rank, entry in enumerate(content["vocab"][:MOST_TOKENS]):
        vocabulary["".join(table[byte] for byte in base64.b64decode(entry["token_bytes"]))] = rank
    merges = []
    for token, rank in vocabulary.items():
        halves = [(token[:at], token[at:]) for at in range(1, len(token))]
        both = [(a, b) for a, b in halves if a in vocabulary and b in vocabulary]
        known = [(vocabulary[a], vocabulary[b], a, b) for a, b in both]
        merges += [(rank, a, b) for _, _, a, b in sorted(known)]
    pairs = [(a, b) for _, a, b in sorted(merges, key=lambda merge: merge[0])]
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=pairs, ignore_merges=ignore_merges))
    split = pre_tokenizers.Split(Regex(content["config"]["pattern"]), behavior="isolated")
    bytes_only = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, bytes_only])
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def cost(tokenizer: Tokenizer, tokens: int, prompts: int) -> tuple[float, float]:
    """Median time of a prompt in ms, and in us a token."""
    draw = random.Random(0)
    took_ms, each_us = [], []
    for _ in range(prompts):
        ids = [draw.randrange(2000, tokenizer.get_vocab_size() - 1000) for _ in range(tokens)]
        text = tokenizer.decode(ids)
        begin = time.perf_counter()
        encoded = tokenizer.encode(text)
        took_ms.append(1e3 * (time.perf_counter() - begin))
        each_us.append(1e3 * took_ms[-1] / len(encoded.ids))
    return median(took_ms), median(each_us)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--prompts", type=int, default=200)
    arguments = parser.parse_args()
    table = Table("tokenizer", "ms a prompt", "us a token", box=box.SIMPLE_HEAD)
    real = {f"Tekken, {what}": ignore for what, ignore in (("merging", False), ("whole words first", True))}
    for name, ignore in real.items():
        ms, us = cost(tekken(ignore_merges=ignore), arguments.tokens, arguments.prompts)
        table.add_row(name, f"{ms:.2f}", f"{us:.2f}")
    for model in LOCAL:
        entry = find_model(model)
        if entry is None:
            raise SystemExit(f"unknown model {model}")
        local = Tokenizer.from_file(str(materialise(entry) / "tokenizer.json"))
        ms, us = cost(local, arguments.tokens, arguments.prompts)
        table.add_row(f"{model}, local", f"{ms:.2f}", f"{us:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
