"""Trees without XGBoost give what XGBoost gives, and scalar features what array features give."""

import gzip

import numpy as np
import pytest
import xgboost

from revati.latency.families import attention_features as af
from revati.latency.families import gemm, moe
from revati.latency.families.forest import Forest, UbjReader
from revati.latency.families.vectors import SCALARS
from revati.spec import load_spec, profiles_dir

SPEC = load_spec("h100_sxm")


@pytest.mark.parametrize("name", ["gemm_bf16", "attention_decode", "moe"])
def test_the_trees_of_a_shipped_model_are_those_of_xgboost(name):
    raw = gzip.decompress((profiles_dir() / "h100_sxm" / "models" / f"{name}.ubj.gz").read_bytes())
    forest, booster = Forest(raw), xgboost.Booster({"nthread": 1})
    booster.load_model(bytearray(raw))
    rows = np.random.RandomState(0).uniform(-3, 20, (500, forest.features))
    expected = booster.inplace_predict(rows)
    assert np.ptp(expected) > 0.1
    np.testing.assert_allclose(forest.predict(rows), expected, atol=2e-5)


def test_a_value_on_the_threshold_goes_the_same_way():
    x = np.repeat(np.arange(8.0), 4)[:, None]
    booster = xgboost.train({"max_depth": 3, "nthread": 1}, xgboost.DMatrix(x, x[:, 0] ** 2), 5)
    forest = Forest(bytes(booster.save_raw("ubj")))
    thresholds = np.unique(forest._value)[:, None].astype(float)
    both = np.concatenate([x, thresholds])
    np.testing.assert_allclose(forest.predict(both), booster.inplace_predict(both), atol=1e-5)


@pytest.mark.parametrize("data", [b"", b"{", b"[", b"SU\xff", b"[$d#U\x09\x00", b"?"])
def test_broken_ubj_is_a_value_error(data):
    with pytest.raises(ValueError, match="UBJ"):
        UbjReader(data).read()


def test_ubj_without_trees_is_a_value_error():
    with pytest.raises(ValueError, match="no XGBoost model"):
        Forest(b"{}")


def heads(window, fp8):
    return af.Heads(32.0, 8.0, 128.0, float(window), float(fp8))


def columns(h):
    return af.Heads(*(np.array([getattr(h, name)]) for name in af.Heads.__slots__))


@pytest.mark.parametrize("window", [0, 1024])
@pytest.mark.parametrize("fp8", [0, 1])
def test_scalar_features_are_array_features(window, fp8):
    h = heads(window, fp8)
    cases = [
        (af.decode, (16.0, 3000.0)),
        (af.prefill, (2.0, 700.0, 0.0)),
        (af.prefill, (1.0, 64.0, 4096.0)),
    ]
    for function, sizes in cases:
        one, roof = function(*sizes, h, SPEC, SCALARS)
        many, roofs = function(*(np.array([s]) for s in sizes), columns(h), SPEC)
        np.testing.assert_allclose(one, many, rtol=1e-12)
        assert roof == pytest.approx(roofs[0], rel=1e-12)
    rows = (1.0, 256.0, 512.0, 8.0, 2000.0, 4000.0)
    one, roof = af.mixed(af.MixedRows(*rows), h, SPEC, SCALARS)
    many, roofs = af.mixed(af.MixedRows(*(np.array([r]) for r in rows)), columns(h), SPEC)
    np.testing.assert_allclose(one, many, rtol=1e-12)
    assert roof == pytest.approx(roofs[0], rel=1e-12)


@pytest.mark.parametrize("kind", ["bf16", "fp8", "fp4"])
@pytest.mark.parametrize("size", [(1, 64, 64), (300, 6144, 4096), (4096, 4096, 4096)])
def test_scalar_gemm_and_expert_features_are_array_features(kind, size):
    one, roof = gemm.features(*map(float, size), kind, SPEC, SCALARS)
    many, roofs = gemm.features(*(np.array([float(s)]) for s in size), kind, SPEC)
    np.testing.assert_allclose(one, many, rtol=1e-12)
    assert roof == pytest.approx(roofs[0], rel=1e-12)
    expert = (float(size[0]), 8.0, 128.0, 2048.0, 768.0)
    one, _ = moe.features(*expert, kind, 7.0, SPEC, SCALARS)
    many, _ = moe.features(*(np.array([e]) for e in expert), kind, np.array([7.0]), SPEC)
    np.testing.assert_allclose(one, many, rtol=1e-12)
