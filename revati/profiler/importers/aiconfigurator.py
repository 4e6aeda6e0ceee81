"""Measurements of NVIDIA's AIConfigurator (PyPI `aiconfigurator-core`, Apache-2.0).

Its wheel keeps Parquet files under `systems/data/<gpu>/<family>/<engine>/<version>/`: one call, one layer,
in ms, timed as back-to-back calls in a CUDA graph. Left out, and why: vLLM's `fp8_block` GEMMs and the
`*_eager` all-reduce rows were timed eagerly (launch time, not kernel time); module tables (MLA, DSA)
hold several ops.

vLLM's `fp8` and `fp4` GEMM rows (kernel_source `...LinearKernel`) time the whole linear layer: quantisation
of the activations (fp8: by token), then the product. The engine launches, and the device prices, these two
apart, so the quantisation that the same run timed at the same (m, k) (scale_matrix + computescale) is taken
off. A floor of 4.9 us where bf16 has 2.6 us, and 350 us for [8192, 16384] @ [16384, 128], say the same.
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

from revati.profiler.measure import MeasurementError

if TYPE_CHECKING:
    import pandas as pd

VERSION = "0.12.0"
LICENCE = "Apache-2.0"
FOLDERS = {"rtx_pro_6000": "rtx_pro_6000_server"}
GPUS = ("a100_sxm", "b200_sxm", "h100_sxm", "h200_sxm", "l40s", "rtx_pro_6000")

_KINDS = {"bfloat16": "bf16", "float16": "bf16", "fp8": "fp8", "fp8_block": "fp8_block", "int8_wo": "int8_wo",
          "int4_wo": "int4_wo", "nvfp4": "fp4", "w4a16_mxfp4": "mxfp4_wo", "w4a8_mxfp4_mxfp8": "mxfp4",
          "int8": "int8", "sq": "int8"}  # fmt: skip
MS = 1e6


def data_root(path: Path) -> Path:
    """Folder `systems/data` of an installed or unpacked package; a wheel is unpacked beside itself."""
    if path.suffix == ".whl":
        target = path.with_suffix("")
        if not target.is_dir():
            with zipfile.ZipFile(path) as archive:
                archive.extractall(target, [n for n in archive.namelist() if "/systems/data/" in n])
        path = target
    for candidate in (path, path / "systems" / "data", path / "aiconfigurator_core" / "systems" / "data"):
        if (candidate / "h100_sxm").is_dir():
            return candidate
    raise MeasurementError(
        f"{path}: no systems/data folder of aiconfigurator-core; fetch it with "
        f"`pip download --no-deps aiconfigurator-core=={VERSION}` and give the wheel"
    )


def _version_key(path: Path) -> list[tuple[int, int | str]]:
    return [(0, int(p)) if p.isdigit() else (1, p) for p in path.name.replace("rc", ".rc.").split(".")]


def source_files(root: Path, gpu: str, engine: str) -> dict[str, Path]:
    """Newest file of each table that is used, by table name."""
    base = root / FOLDERS.get(gpu, gpu)
    if gpu not in GPUS or not base.is_dir():
        raise MeasurementError(f"GPU {gpu!r} is not in this package; it has {', '.join(GPUS)}")
    tables = {
        "gemm": f"gemm/{engine}", "context_attention": f"attention/{engine}",
        "generation_attention": f"attention/{engine}", "moe": f"moe/{engine}",
        "custom_allreduce": f"comm/{engine}",
        "nccl": "comm/nccl", "scale_matrix": f"quantize/{engine}", "computescale": f"quantize/{engine}",
    }  # fmt: skip
    found = {}
    for table, folder in tables.items():
        files = [p / f"{table}_perf.parquet" for p in sorted((base / folder).glob("*"), key=_version_key)]
        files = [p for p in files if p.is_file()]
        if files:
            found[table] = files[-1]
    return found


def load(root: Path, gpu: str, engine: str = "vllm") -> pd.DataFrame:
    """All usable measurements of `gpu` taken with `engine`, in the measurement schema."""
    import pandas as pd

    frames = []
    files = source_files(root, gpu, engine)
    for table, path in files.items():
        raw = pd.read_parquet(path)
        if "version" not in raw:
            raw["version"] = path.parent.name
        frame = _CONVERTERS[table](raw)
        if table == "gemm" and {"scale_matrix", "computescale"} <= set(files):
            frame = _without_quantisation(frame, raw, *(files[t] for t in ("scale_matrix", "computescale")))
        if len(frame):
            rows = raw.loc[frame.index]
            frame["engine_version"] = rows["version"].astype(str)
            frame["implementation"] = rows["kernel_source"].astype(str)
            frame["engine"] = "nccl" if table == "nccl" else engine
            frames.append(frame)
    if not frames:
        raise MeasurementError(f"no {engine} measurements of {gpu} in {root}")
    out = pd.concat(frames, ignore_index=True)
    out["gpu"], out["source"], out["timing"] = gpu, "aiconfigurator", "graph"
    return out


def _gemm(raw: pd.DataFrame) -> pd.DataFrame:
    import pandas as pd

    kind = raw["gemm_dtype"].map(_KINDS)
    keep = kind.notna() & ((kind != "fp8_block") | (raw["framework"].str.lower() != "vllm"))
    raw, kind = raw[keep], kind[keep]
    return pd.DataFrame(
        {"family": "gemm", "kind": kind, "m": raw["m"].astype(int), "n": raw["n"].astype(int),
         "k": raw["k"].astype(int), "batch": 1, "l2": "cold", "latency_ns": raw["latency"] * MS}
    )  # fmt: skip


MOST_QUANTISATION = 0.8
"""A row of which quantisation is more than this share is left out: a small difference of large times."""


def _without_quantisation(
    frame: pd.DataFrame, raw: pd.DataFrame, static: Path, extra: Path
) -> pd.DataFrame:  # fmt: skip
    """`frame` with the quantisation taken off the linear layers; rows whose quantisation is unknown go.

    fp4: only fp8's static quantisation was timed, which reads the same activations; it stands for fp4's.
    """
    import pandas as pd

    keys = ["m", "k"]
    static_ms, extra_ms = (pd.read_parquet(path).groupby(keys)["latency"].mean() for path in (static, extra))
    layer = raw.loc[frame.index, "kernel_source"].str.endswith("LinearKernel")
    keep = pd.Series(True, index=frame.index)
    latency = frame["latency_ns"].copy()
    for kind, table in (("fp8", static_ms.add(extra_ms)), ("fp4", static_ms)):
        rows = frame[layer & (frame["kind"] == kind)]
        taken = table.reindex(pd.MultiIndex.from_frame(rows[keys])).to_numpy() * MS
        keep[rows.index] = taken < MOST_QUANTISATION * rows["latency_ns"]
        latency[rows.index] -= taken
    return frame.assign(latency_ns=latency)[keep]


def _heads(raw: pd.DataFrame) -> dict[str, object]:
    kv_heads = raw["num_key_value_heads"].astype(int)
    heads = raw["num_heads"].astype(int)
    dim = raw["head_dim"].astype(int)
    window = raw["window_size"].astype(int) if "window_size" in raw else 0
    return {
        "family": "attention", "kind": "bf16", "heads": heads, "kv_heads": kv_heads.where(kv_heads > 0,
        heads),
        "head_dim": dim, "head_dim_v": dim, "window": window, "l2": "warm",
        "kv_kind": raw["kv_cache_dtype"].map(lambda x: "fp8" if "fp8" in str(x) else "bf16"),
    }  # fmt: skip


def _context(raw: pd.DataFrame) -> pd.DataFrame:
    import pandas as pd

    if "attn_dtype" in raw:
        raw = raw[raw["attn_dtype"].isin(["bfloat16", "float16"])]
    return pd.DataFrame(
        {**_heads(raw), "prefill_seqs": raw["batch_size"].astype(int), "prefill_q": raw["isl"].astype(int),
         "prefill_context": raw["step"].astype(int), "decode_seqs": 0, "decode_kv": 0,
         "latency_ns": raw["latency"] * MS}
    )  # fmt: skip


def _generation(raw: pd.DataFrame) -> pd.DataFrame:
    import pandas as pd

    if "attn_dtype" in raw:
        raw = raw[raw["attn_dtype"].isin(["bfloat16", "float16"])]
    keys = raw["step"].astype(int) + raw["isl"].astype(int)
    return pd.DataFrame(
        {**_heads(raw), "prefill_seqs": 0, "prefill_q": 0, "prefill_context": 0,
         "decode_seqs": raw["batch_size"].astype(int), "decode_kv": keys, "latency_ns": raw["latency"] * MS}
    )  # fmt: skip


def _moe(raw: pd.DataFrame) -> pd.DataFrame:
    import pandas as pd

    kind = raw["moe_dtype"].map(_KINDS)
    keep = kind.notna() & (raw["moe_ep_size"] == 1) & (raw["distribution"] == "balanced")
    raw, kind = raw[keep], kind[keep]
    inter = raw["inter_size"].astype(int) // raw["moe_tp_size"].astype(int)
    return pd.DataFrame(
        {"family": "moe", "kind": kind, "tokens": raw["num_tokens"].astype(int),
        "topk": raw["topk"].astype(int),
         "experts": raw["num_experts"].astype(int), "hidden": raw["hidden_size"].astype(int), "inter": inter,
         "distribution": raw["distribution"], "l2": "warm", "latency_ns": raw["latency"] * MS}
    )[inter > 0]  # fmt: skip


def _allreduce(raw: pd.DataFrame) -> pd.DataFrame:
    import pandas as pd

    raw = raw[raw["kernel_source"].astype(str).str.endswith("_graph")]
    return pd.DataFrame(
        {"family": "collective", "kind": "bf16", "label": "allreduce", "l2": "warm",
         "world_size": raw["num_gpus"].astype(int), "read_bytes": raw["message_size"] * 2.0,
         "write_bytes": 0.0,
         "latency_ns": raw["latency"] * MS}
    )  # fmt: skip


def _nccl(raw: pd.DataFrame) -> pd.DataFrame:
    import pandas as pd

    raw = raw[raw["nccl_dtype"] == "half"]
    label = raw["op_name"].str.replace("all_", "all", regex=False)
    return pd.DataFrame(
        {"family": "collective", "kind": "bf16", "label": label, "l2": "warm",
         "world_size": raw["num_gpus"].astype(int), "read_bytes": raw["message_size"] * 2.0,
         "write_bytes": 0.0,
         "latency_ns": raw["latency"] * MS}
    )  # fmt: skip


def _scale_matrix(raw: pd.DataFrame) -> pd.DataFrame:
    import pandas as pd

    size = raw["m"] * raw["k"]
    frame = pd.DataFrame(
        {"family": "quantize", "kind": "fp8", "label": "static_scaled_fp8_quant", "l2": "warm",
         "m": raw["m"].astype(int), "k": raw["k"].astype(int), "read_bytes": size * 2.0,
         "write_bytes": size * 1.0,
         "latency_ns": raw["latency"] * MS}
    )  # fmt: skip
    return frame[frame["latency_ns"] > 1000]


def _nothing(raw: pd.DataFrame) -> pd.DataFrame:
    return raw.iloc[:0]


_CONVERTERS = {
    "gemm": _gemm, "context_attention": _context, "generation_attention": _generation, "moe": _moe,
    "custom_allreduce": _allreduce, "nccl": _nccl, "scale_matrix": _scale_matrix, "computescale": _nothing,
}  # fmt: skip
