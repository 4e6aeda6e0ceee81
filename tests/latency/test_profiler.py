"""Measurements, collection with a fake timer, and fits."""

import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from revati.latency.predictor import Predictor
from revati.latency.roofline import roofline_ns
from revati.latency.store import Profile, sha256_file
from revati.profiler import collect, heldout, measure, shapes
from revati.profiler.fit import fit_profile
from revati.spec import load_spec

SPEC = load_spec("l40s")
# what one rank of a small decoder launches, tensor parallel 1 and 2
LAUNCHES = shapes.Launches(
    products={
        ("bf16", n, k): m
        for n, k, m in (
            (1536, 1024, 8192), (1024, 1024, 8192), (8192, 1024, 8192), (1024, 4096, 8192),
            (768, 1024, 8192), (1024, 512, 8192), (4096, 1024, 8192), (1024, 2048, 8192),
            (32000, 1024, 256), (16000, 1024, 256),
        )
    },
    widths={("norm", 1024), ("activation", 8192), ("rope", 1280), ("embedding", 1024)},
    heads={(8, 2, 128, "bf16"), (4, 1, 128, "bf16")},
)  # fmt: skip


SHAPE = {"family": "gemm", "kind": "bf16", "m": 8, "n": 64, "k": 64}


class FakeTimer:
    """An op takes twice its roofline and 3 us; every `fail_every`-th shape cannot run."""

    gpu_name = SPEC.name

    def __init__(self, stop_after=10**9):
        self.launched = 0
        self.stop_after = stop_after

    def prepare(self, shape):
        if self.launched >= self.stop_after:
            raise KeyboardInterrupt
        self.launched += 1
        if shape.get("prefill_q") == 8192 and shape.get("decode_seqs"):
            raise measure.MeasurementError("out of memory")
        return lambda: shape

    def graph_ns(self, launch, repeats, cold):
        shape = launch()
        row = SimpleNamespace(**{"window": 0, **shape})
        if shape["family"] not in ("gemm", "attention"):
            row.read_bytes = row.write_bytes = 2.0 * shape["tokens"] * shape["hidden"]
        time_ns = 2 * roofline_ns(heldout.row_work(row), SPEC) + 3000
        return [time_ns * (1.0 if cold else 0.9)] * repeats

    def host_launch_ns(self, launch):
        return 5000.0


@pytest.fixture(scope="module")
def collected(tmp_path_factory):
    todo = list(shapes.grid(LAUNCHES))
    journal = tmp_path_factory.mktemp("collect") / "l40s.jsonl"
    return todo, journal, collect.collect(todo, FakeTimer(), journal)


def test_an_interrupted_collection_goes_on(tmp_path, collected):
    todo, _, whole = collected
    journal = tmp_path / "j.jsonl"
    with pytest.raises(KeyboardInterrupt):
        collect.collect(todo, FakeTimer(stop_after=20), journal)
    with journal.open("a") as handle:
        handle.write('{"key": "half a li')  # killed while writing
    text = journal.read_text().splitlines()[:20]
    journal.write_text("\n".join(text) + "\n")
    timer = FakeTimer()
    records = collect.collect(todo, timer, journal)
    assert len(records) == len(whole) and timer.launched == len(whole) - 20


def test_progress_tells_the_time_left(tmp_path):
    todo = [{"family": "gemm", "kind": "bf16", "m": m, "n": 64, "k": 64} for m in (1, 2, 4)]
    seen, now = [], iter(range(100))
    collect.collect(todo, FakeTimer(), tmp_path / "j", note=seen.append, clock=lambda: float(next(now)))
    assert [(p.done, p.left_s) for p in seen] == [(1, 2.0), (2, 1.0), (3, 0.0)]
    assert collect.left_text(seen[0]) == "1/3, 2 s left"


@pytest.mark.parametrize(
    ("gpu", "engine", "found"),
    [("NVIDIA Other", "vllm 0.32.0", "NVIDIA Other"), (SPEC.name, "vllm 0.31.0", "vllm 0.31.0")],
)
def test_a_journal_of_another_card_or_engine_version_is_refused(tmp_path, gpu, engine, found):
    (tmp_path / "j").write_text(json.dumps({"key": "x", "gpu_name": gpu, "engine": engine}) + "\n")
    with pytest.raises(measure.MeasurementError, match=f"begun on {found}, this is"):
        collect.collect([], FakeTimer(), tmp_path / "j", engine="vllm 0.32.0")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 1"),
        ('{"family": "magic"}', "family must be one of"),
        ('{"family": "gemm", "kind": "bf16"}', "m must"),
        ("", "no shapes"),
    ],
)
def test_bad_shape_files(tmp_path, line, message):
    (tmp_path / "s").write_text(line)
    with pytest.raises(measure.MeasurementError, match=message):
        shapes.read_shapes(tmp_path / "s")


def test_collect_fit_predict(tmp_path, collected):
    _, _, records = collected
    frame = collect.to_frame(records, "l40s", "vllm", "0.32.0")
    assert sum("error" in r for r in records) > 0 and len(frame) < len(records)
    file = tmp_path / "l40s.collect.parquet"
    measure.write(frame, file, [{"name": "test", "version": "1", "licence": "-", "file": "j", "sha256": "-"}])
    assert measure.read_sources(file)[0]["name"] == "test"
    out = tmp_path / "l40s"
    provenance = fit_profile("l40s", [file], [], out, pool_shapes=False)
    assert {"gemm.bf16", "attention.decode", "attention.prefill", "attention.mixed"} <= set(
        provenance["models"]
    )
    predictor = Predictor("l40s")
    predictor.profile = Profile(SPEC, out)
    for row in frame[frame["family"] == "gemm"].iloc[::17].itertuples():
        got = predictor.predict_work(heldout.row_work(row))
        assert got.duration_ns + SPEC.graph_kernel_gap_ns == pytest.approx(row.latency_ns, rel=0.15)
        assert got.confidence == "in_range"


@pytest.mark.slow
def test_fits_are_bit_identical(tmp_path, collected):
    frame = collect.to_frame(collected[2], "l40s", "vllm", "0.32.0")
    measure.write(frame, tmp_path / "m.parquet")
    hashes = []
    for name in ("a", "b"):
        provenance = fit_profile("l40s", [tmp_path / "m.parquet"], [], tmp_path / name, pool_shapes=False)
        hashes.append(provenance["files"])
        assert all(sha256_file(tmp_path / name / f) == h for f, h in provenance["files"].items())
    assert hashes[0] == hashes[1]


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("latency_ns", 3.0, "nanoseconds are expected"),
        ("latency_ns", np.nan, "outside"),
        ("n", np.nan, "column n"),
        ("mystery", 1, "not in the measurement schema"),
        ("m", "eight", "does not fit|required"),
    ],
)
def test_bad_measurements(tmp_path, column, value, message):
    row = {"gpu": "l40s", "family": "gemm", "kind": "bf16", "m": 1, "n": 2, "k": 3, "latency_ns": 5000.0}
    with pytest.raises(measure.MeasurementError, match=message):
        measure.write(pd.DataFrame([{**row, column: value}]), tmp_path / "m.parquet")


def test_unreadable_measurements(tmp_path):
    (tmp_path / "m.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(measure.MeasurementError, match=r"m\.parquet: not a readable"):
        measure.read(tmp_path / "m.parquet")
