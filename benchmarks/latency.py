"""Cost of asking the latency layer, and size of what it ships.

    python benchmarks/latency.py [--gpu h100_sxm]

Prints microseconds of thread CPU time a query: the first of a process (models load), a miss, a repeat that
the estimators' own caches answer, and one model row: alone, alone by XGBoost itself, and among 4096. Times
include whatever else the machine does to its caches: compare lines of one run.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator

import numpy as np

from revati.latency import OpRecord, Predictor, TensorArg
from revati.latency.families import attention_features as af
from revati.latency.store import load_profile
from revati.spec import list_gpus


def tensor(*shape: int, dtype: str = "bfloat16", values: list[int] | None = None) -> TensorArg:
    """A contiguous tensor argument."""
    stride = tuple(int(np.prod(shape[i + 1 :])) for i in range(len(shape)))
    return TensorArg(shape, stride, dtype, None if values is None else np.array(values))


def record(name: str, **args: object) -> OpRecord:
    """A record with named arguments."""
    return OpRecord(name, tuple(args.values()), (), tuple(args))


def gemms() -> Iterator[OpRecord]:
    """Products of a new token count each."""
    for m in range(1, 301):
        yield record("aten::mm", self=tensor(m, 4096), mat2=tensor(4096, 6144))


def attention(sequences: int, prefill: bool) -> Iterator[OpRecord]:
    """Decode steps whose keys grow by one, with a prefill chunk beside them if `prefill`."""
    for step in range(300):
        keys = [1000 + 7 * i + step for i in range(sequences)]
        rows = [1] * sequences + ([256] if prefill else [])
        keys += [512 + step] if prefill else []
        starts = np.cumsum([0, *rows]).tolist()
        cache = tensor(4096, 16, 8, 128)
        yield record(
            "_vllm_fa3_C::fwd",
            q=tensor(starts[-1], 32, 128),
            k=cache,
            v=cache,
            cu_seqlens_q=tensor(len(starts), dtype="int32", values=starts),
            seqused_k=tensor(len(keys), dtype="int32", values=keys),
            is_causal=True,
        )


def norms() -> Iterator[OpRecord]:
    """Norms of a new token count each."""
    for tokens in range(1, 301):
        x = tensor(tokens, 4096)
        yield record("_C::fused_add_rms_norm", input=x, residual=x, weight=tensor(4096), epsilon=1e-6)


def spent_us(call: Callable[[], object]) -> float:
    """Thread CPU time of `call`, us."""
    start = time.thread_time_ns()
    call()
    return (time.thread_time_ns() - start) / 1e3


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--gpu", default="h100_sxm")
    gpu = parser.parse_args().gpu
    cases: list[tuple[str, Callable[[], Iterator[OpRecord]]]] = [
        ("gemm", gemms),
        ("decode attention, 16 sequences", lambda: attention(16, False)),
        ("decode attention, 256 sequences", lambda: attention(256, False)),
        ("mixed attention, 16 sequences", lambda: attention(16, True)),
        ("norm", norms),
    ]
    print(
        f"{gpu}: us of CPU time a query\n{'':32} {'first':>9} {'miss p50':>9} {'miss p99':>9} {'repeat':>9}"
    )
    for name, make in cases:
        predictor = Predictor(gpu)
        predictor.profile._estimators.clear()
        rows = list(make())
        first = spent_us(lambda p=predictor, r=rows[0]: p.predict(r))  # type: ignore[misc]
        miss = [spent_us(lambda p=predictor, r=r: p.predict(r)) for r in rows[1:]]  # type: ignore[misc]
        again = [spent_us(lambda p=predictor, r=r: p.predict(r)) for r in rows[1:]]  # type: ignore[misc]
        p50, p99 = np.quantile(miss, [0.5, 0.99])
        print(f"{name:32} {first:9.0f} {p50:9.1f} {p99:9.1f} {np.median(again):9.1f}")
    alone, xgboost_alone, among = row_us(gpu)
    print(f"one model row: {alone:.0f} us alone, {xgboost_alone:.0f} us alone by xgboost.inplace_predict, "
          f"{among:.1f} us among 4096")  # fmt: skip
    total = 0
    for name in list_gpus():
        profile = load_profile(name)
        size = sum((profile.folder / f).stat().st_size for f in profile.provenance.get("files", {}))
        total += size
        print(f"{name:32} {size / 1e6:6.1f} MB")
    print(f"{'all profiles':32} {total / 1e6:6.1f} MB")


def row_us(gpu: str) -> tuple[float, float, float]:
    """Time of one row of the decode model, us: alone, alone by XGBoost, in a batch of 4096 with features."""
    from revati.latency.families.attention import AttentionEstimator

    profile = load_profile(gpu)
    entries = {n: e for n, e in profile.provenance["models"].items() if e["family"] == "attention"}
    booster = AttentionEstimator(profile, entries).boosters["decode"]
    full = np.ones(4096)
    heads = af.Heads(full * 32, full * 8, full * 128, full * 0, full * 0)
    keys = np.arange(4096) + 1.0

    def ask() -> object:
        return booster.predict(af.decode(full * 16, keys, heads, profile.spec)[0])

    ask()
    matrix = af.decode(full * 16, keys, heads, profile.spec)[0]
    rows = [matrix[i : i + 1] for i in range(300)]
    alone = [spent_us(lambda r=r: booster.predict(r)) for r in rows]  # type: ignore[misc]
    theirs = [spent_us(lambda r=r: booster._xgboost.inplace_predict(r)) for r in rows]  # type: ignore[misc]
    return float(np.median(alone)), float(np.median(theirs)), spent_us(ask) / 4096


if __name__ == "__main__":
    main()
