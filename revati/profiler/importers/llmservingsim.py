"""Measurements of LLMServingSim 2.0's profiler (MIT): `<hardware>/<model>/<variant>/tp<n>/*.csv`.

One call, one layer, in us: kernel durations from a profiler while vLLM ran one layer eagerly. Each layer
name is mapped to the op that vLLM launches for it, with shapes from the model's public architecture.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from revati.profiler.measure import MeasurementError

if TYPE_CHECKING:
    import pandas as pd

LICENCE = "MIT"
HARDWARE = {"RTX4090": "rtx4090", "RTXPRO6000": "rtx_pro_6000"}


@dataclass(frozen=True)
class Model:
    """Sizes of one model on one GPU (before tensor parallelism)."""

    hidden: int
    inter: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    topk: int = 0


MODELS = {
    "Llama-3.1-8B": Model(4096, 14336, 32, 8, 128, 128256),
    "Qwen3-32B": Model(5120, 25600, 64, 8, 128, 151936),
    "Qwen3-30B-A3B-Instruct-2507": Model(2048, 768, 32, 4, 128, 151936, topk=8),
}
US = 1e3


def load(root: Path, gpu: str) -> pd.DataFrame:
    """All measurements of `gpu` under `root` (the folder that holds RTX4090/ and so on)."""
    import pandas as pd

    folders = [root / name for name, known in HARDWARE.items() if known == gpu and (root / name).is_dir()]
    if not folders:
        raise MeasurementError(
            f"{root}: no measurements of {gpu!r}; expected one of {', '.join(HARDWARE)} in it"
        )
    frames = []
    for path in source_files(root, gpu):
        model = MODELS.get(path.parents[2].name)
        if model is None:
            raise MeasurementError(
                f"{path}: model {path.parents[2].name!r} has no sizes here; add it to MODELS"
            )
        tp = int(path.parent.name.removeprefix("tp"))
        meta = yaml.safe_load((path.parents[1] / "meta.yaml").read_text())
        raw = pd.read_csv(path)
        frame = pd.DataFrame(_READERS[path.name](raw, model, tp))
        frame["engine_version"] = str(meta["vllm_version"])
        frame["label"] = f"{path.parents[2].name}/tp{tp}/" + frame["label"]
        frames.append(frame)
    out = pd.concat(frames, ignore_index=True)
    out["gpu"], out["source"], out["engine"], out["timing"] = gpu, "llmservingsim", "vllm", "kernel"
    out["implementation"] = "vllm_flash_attn_fa2"
    out.loc[out["family"] != "attention", "implementation"] = "vllm"
    return out


def source_files(root: Path, gpu: str) -> list[Path]:
    """The CSV files that `load` reads, sorted."""
    names = [name for name, known in HARDWARE.items() if known == gpu]
    return sorted(p for name in names for p in (root / name).glob("*/*/*/tp*/*.csv") if p.name in _READERS)


def _dense(raw: pd.DataFrame, model: Model, tp: int) -> list[dict[str, Any]]:
    heads = model.heads // tp * model.head_dim
    kv = max(1, model.kv_heads // tp) * model.head_dim
    inter = model.inter // tp
    products = {
        "qkv_proj": (heads + 2 * kv, model.hidden),
        "o_proj": (model.hidden, heads),
        "gate_up_proj": (2 * inter, model.hidden),
        "down_proj": (model.hidden, inter),
    }
    moved = {  # (family, bytes read, bytes written) of one token; a layer of two calls is timed as their mean
        "act_fn": ("activation", 4 * inter, 2 * inter),
        "final_layernorm": ("norm", 4 * model.hidden, 4 * model.hidden),
        "layernorm": ("norm", 3 * model.hidden, 3 * model.hidden),
        "qk_norm": ("qk_norm", heads + kv, heads + kv),
        "rotary_emb": ("rope", 2 * (heads + kv), 2 * (heads + kv)),
        "embedding": ("embedding", 2 * model.hidden, 2 * model.hidden),
    }
    rows: list[dict[str, Any]] = []
    for layer, tokens, time_us in raw[["layer", "tokens", "time_us"]].itertuples(index=False):
        row: dict[str, Any] = {
            "label": layer,
            "latency_ns": time_us * US,
            "l2": "cold",
            "tokens": int(tokens),
        }
        if layer in products:
            n, k = products[layer]
            row |= {"family": "gemm", "kind": "bf16", "m": int(tokens), "n": n, "k": k, "batch": 1}
        elif layer in moved:
            family, read, write = moved[layer]
            row |= {"family": family, "l2": "warm", "read_bytes": float(tokens * read)}
            row |= {"write_bytes": float(tokens * write)}
        else:
            continue
        rows.append(row)
    return rows


def _per_sequence(raw: pd.DataFrame, model: Model, tp: int) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for layer, count, time_us in raw[["layer", "sequences", "time_us"]].itertuples(index=False):
        row: dict[str, Any] = {"label": layer, "latency_ns": time_us * US, "l2": "cold"}
        if layer == "lm_head":
            row |= {
                "family": "gemm",
                "kind": "bf16",
                "m": int(count),
                "n": model.vocab // tp,
                "k": model.hidden,
            }
            row |= {"batch": 1}
        elif layer == "sampler":
            row |= {"family": "sampler", "read_bytes": count * model.vocab * 4.0, "write_bytes": 8.0 * count}
        else:
            continue
        rows.append(row)
    return rows


def _attention(raw: pd.DataFrame, model: Model, tp: int) -> dict[str, Any]:
    raw = raw[(raw["prefill_chunk"] > 0) | (raw["n_decode"] > 0)]
    return {
        "label": ["attention"] * len(raw), "family": "attention", "kind": "bf16", "kv_kind": "bf16",
        "l2": "cold",
        "heads": model.heads // tp, "kv_heads": max(1, model.kv_heads // tp), "head_dim": model.head_dim,
        "head_dim_v": model.head_dim, "window": 0,
        "prefill_seqs": (raw["prefill_chunk"] > 0).astype(int).to_numpy(),
        "prefill_q": raw["prefill_chunk"].astype(int).to_numpy(),
        "prefill_context": raw["kv_prefill"].astype(int).to_numpy(),
        "decode_seqs": raw["n_decode"].astype(int).to_numpy(),
        "decode_kv": raw["kv_decode"].astype(int).to_numpy(), "latency_ns": raw["time_us"].to_numpy() * US,
    }  # fmt: skip


def _moe(raw: pd.DataFrame, model: Model, tp: int) -> list[dict[str, Any]]:
    return [
        {"label": "moe", "family": "moe", "kind": "bf16", "tokens": int(tokens), "topk": model.topk,
         "experts": int(active), "hidden": model.hidden, "inter": model.inter // tp, "distribution": "active",
         "l2": "warm", "latency_ns": time_us * US}
        for tokens, active, time_us in raw[["tokens", "activated_experts", "time_us"]].itertuples(index=False)
    ]  # fmt: skip


_READERS: dict[str, Any] = {
    "dense.csv": _dense, "per_sequence.csv": _per_sequence, "attention.csv": _attention, "moe.csv": _moe,
}  # fmt: skip
