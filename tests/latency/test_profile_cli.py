"""`revati profile` and `revati gpus`: what they print, and one clear line with exit code 2 for bad input."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from test_profiler import SPEC, FakeTimer
from typer.testing import CliRunner

from revati.cli import profile as cli
from revati.latency.predictor import Predictor
from revati.latency.store import Profile, _load
from revati.latency.work import GemmShape
from revati.profiler import measure, recording
from revati.profiler.fit import load_rows
from revati.profiler.heldout import row_work
from revati.spec import profiles_dir

SHAPE = {"family": "gemm", "kind": "bf16", "m": 8, "n": 64, "k": 64}
CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 1024, "hidden_act": "silu",
    "intermediate_size": 4096, "num_attention_heads": 8, "num_key_value_heads": 2, "num_hidden_layers": 8,
    "vocab_size": 32000, "max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "torch_dtype": "bfloat16",
    "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip


def run(*args):
    return CliRunner().invoke(cli.app, list(args))


def refused(*args, words):
    """The command fails with exit code 2 and one line that has `words`."""
    done = run(*args)
    lines = done.output.strip().splitlines()
    assert done.exit_code == 2 and len(lines) == 1 and words in lines[0], (args, done.output)


@pytest.fixture
def measurements(tmp_path, monkeypatch):
    monkeypatch.setenv("REVATI_MEASUREMENTS", str(tmp_path))
    return tmp_path


@pytest.fixture
def own_profiles(tmp_path, monkeypatch):
    shutil.copytree(profiles_dir() / "rtx4090", tmp_path / "rtx4090")
    monkeypatch.setenv("REVATI_PROFILES", str(tmp_path))
    _load.cache_clear()
    yield tmp_path / "rtx4090"
    _load.cache_clear()


@pytest.fixture
def fake_gpu(measurements, monkeypatch):
    monkeypatch.setattr(cli, "_timer", FakeTimer)
    monkeypatch.setattr("importlib.metadata.version", lambda name: "0.32.0")
    return measurements


def csv(folder, latency):
    path = folder / "rows.csv"
    path.write_text(f"family,kind,m,n,k,batch,timing,l2,latency_ns\ngemm,bf16,1,2,3,1,graph,cold,{latency}\n")
    return str(path)


def test_import_csv(measurements):
    done = run("import", "csv", csv(measurements, 5000), "--gpu", "l40s")
    assert done.exit_code == 0, done.output
    assert measure.read(measurements / "l40s.csv.parquet")["m"].tolist() == [1]


def test_bad_arguments_are_one_clear_line(measurements):
    rows = csv(measurements, 5000)
    for args, words in (
        (("import", "csv", rows, "--gpu", "x9"), "unknown GPU"),
        (("import", "magic", rows, "--gpu", "l40s"), "expected aiconfigurator"),
        (("import", "aiconfigurator", str(measurements), "--gpu", "l40s"), "no systems/data"),
        (("import", "csv", str(measurements / "none"), "--gpu", "l40s"), "no such file"),
        (("import", "csv", csv(measurements, 0.005), "--gpu", "l40s"), "nanoseconds are expected"),
        (("fit", "h100_sxm"), "revati profile import aiconfigurator"),
        (("fit", "nope"), "unknown GPU"),
        (("report", "h100_sxm"), "missing"),
        (("show", "nope"), "unknown GPU"),
        (("collect", "--gpu", "l40s"), "either --model"),
        (("collect", "--gpu", "l40s", "--shapes", str(measurements / "none")), "No such file"),
        (("collect", "--gpu", "l40s", "--model", str(measurements / "none")), "config.json is expected"),
        (("collect", "--gpu", "l40s", "--model", rows), "not JSON"),
        (("collect", "--gpu", "l40s", "--model", rows, "--tp", "two"), "--tp two: expected positive numbers"),
        (("collect", "--gpu", "l40s", "--model", rows, "--engine", "magic"), "cannot be recorded"),
    ):
        refused(*args, words=words)


def test_measurements_of_another_card_are_refused(measurements):
    foreign = measurements / "l40s.collect.parquet"
    run("import", "csv", csv(measurements, 5000), "--gpu", "a100_sxm", "--out", str(foreign))
    for name in ("l40s.aiconfigurator", "rtx4090.llmservingsim", "rtx_pro_6000.llmservingsim"):
        shutil.copyfile(foreign, measurements / f"{name}.parquet")
    refused("fit", "l40s", words="measurements of 'a100_sxm' among those of 'l40s'")


def test_a_truncated_model_is_refused(own_profiles):
    path = own_profiles / "models" / "gemm_bf16.ubj.gz"
    path.write_bytes(path.read_bytes()[:1000])
    refused("show", "rtx4090", words="corrupt or truncated")


def test_a_spec_in_other_units_is_refused(own_profiles):
    path = own_profiles / "spec.yaml"
    path.write_text(path.read_text().replace("hbm_bytes_per_s: 1.008e+12", "hbm_bytes_per_s: 1008"))
    refused("show", "rtx4090", words="hbm_bytes_per_s")


def test_families_without_a_model_are_named(own_profiles):
    provenance = own_profiles / "provenance.json"
    raw = json.loads(provenance.read_text())
    raw["models"] = {n: e for n, e in raw["models"].items() if e["family"] != "gemm"}
    provenance.write_text(json.dumps(raw))
    assert "no model of gemm" in run("show", "rtx4090").output


def test_fit_check_compares_bit_for_bit(measurements, own_profiles, monkeypatch):
    rng = np.random.RandomState(0)
    rows = pd.DataFrame({"m": rng.randint(1, 4096, 200), "n": 4096, "k": 4096})
    rows = rows.assign(gpu="rtx4090", family="gemm", kind="bf16", batch=1, timing="kernel", l2="cold")
    rows["latency_ns"] = 5000.0 + 30.0 * rows["m"] * rng.uniform(0.9, 1.1, 200)
    measure.write(rows, measurements / "own.parquet")
    monkeypatch.setattr(cli, "_rows", lambda gpu: _only(measurements / "own.parquet", "rtx4090"))
    differs = run("fit", "rtx4090", "--check")
    assert differs.exit_code == 1 and "models/gemm_bf16.ubj.gz" in differs.output
    assert run("fit", "rtx4090").exit_code == 0
    _load.cache_clear()
    same = run("fit", "rtx4090", "--check")
    assert same.exit_code == 0 and "bit for bit" in same.output, same.output


def test_collect_shapes_of_a_file(fake_gpu):
    (fake_gpu / "s.jsonl").write_text(json.dumps(SHAPE) + "\n")
    done = run("collect", "--gpu", "l40s", "--shapes", str(fake_gpu / "s.jsonl"))
    assert done.exit_code == 0, done.output
    assert "1 measurements, 0 shapes failed" in done.output
    refused("collect", "--gpu", "h100_sxm", "--shapes", str(fake_gpu / "s.jsonl"), words="this GPU is")


def test_collect_on_another_engine_version_is_refused(fake_gpu, monkeypatch):
    (fake_gpu / "s.jsonl").write_text(json.dumps(SHAPE) + "\n")
    assert run("collect", "--gpu", "l40s", "--shapes", str(fake_gpu / "s.jsonl")).exit_code == 0
    monkeypatch.setattr("importlib.metadata.version", lambda name: "0.33.0")
    done = run("collect", "--gpu", "l40s", "--shapes", str(fake_gpu / "s.jsonl"))
    assert done.exit_code == 2
    assert "begun on vllm 0.32.0, this is vllm 0.33.0" in done.output.replace("\n", " ")


def test_show_and_gpus():
    assert "gemm.bf16" in run("show", "h100_sxm").output
    cli.gpus()


@pytest.mark.engine
@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_collect_a_model_from_recording_to_prediction(fake_gpu, monkeypatch):
    """Recorded from vLLM on two folded virtual GPUs, timed by a fake, fitted, and asked."""
    config = fake_gpu / "config.json"
    config.write_text(json.dumps(CONFIG))
    done = run("collect", "--gpu", "l40s", "--model", str(config), "--tp", "2")
    assert done.exit_code == 0, done.output
    assert "launched, but not measured by collect: collective" in done.output
    frame = measure.read(fake_gpu / "l40s.collect.parquet")
    products = set(frame.loc[frame["family"] == "gemm", ["n", "k"]].itertuples(index=False, name=None))
    assert products == {(768, 1024), (1024, 512), (4096, 1024), (1024, 2048), (16000, 1024)}
    heads = frame.loc[frame["family"] == "attention", ["heads", "kv_heads", "head_dim"]].drop_duplicates()
    assert heads.to_numpy().tolist() == [[4, 1, 128]]
    assert {"norm", "activation", "rope", "embedding"} <= set(frame["family"])
    monkeypatch.setattr(cli, "_rows", lambda gpu: _only(fake_gpu / "l40s.collect.parquet"))
    fitted = run("fit", "l40s", "--out", str(fake_gpu / "l40s"))
    assert fitted.exit_code == 0, fitted.output
    predictor = Predictor("l40s")
    predictor.profile = Profile(SPEC, fake_gpu / "l40s")
    row = frame[(frame["n"] == 4096) & (frame["m"] == 512)].iloc[0]
    work = row_work(row)
    assert work.shape == GemmShape(512, 4096, 1024, "bf16")
    got = predictor.predict_work(work)
    assert got.duration_ns + SPEC.graph_kernel_gap_ns == pytest.approx(row["latency_ns"], rel=0.2)


def _only(path: Path, gpu: str = "l40s"):
    own, other = load_rows(gpu, [path], [])
    return own, other, [path], [], False


@pytest.mark.engine
def test_what_the_engine_refuses_is_one_clear_line(tmp_path):
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"architectures": ["NoSuchModel"], "model_type": "nope"}))
    with pytest.raises(measure.MeasurementError, match=r"vllm cannot run this model: .*nope"):
        recording.record(config, gpu="l40s", engine="vllm", tensor_parallel=1)
