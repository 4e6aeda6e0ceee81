import itertools
import json
import shutil
import time
from statistics import fmean

import pytest

from revati.latency import Predictor, ProfileError, StrictError, families
from revati.latency.families.gemm import step_ends
from revati.latency.ops.attention import attention_work
from revati.latency.ops.comm import collective_work
from revati.latency.ops.gemm import gemm_work
from revati.latency.ops.moe import moe_work
from revati.latency.roofline import roofline_estimate_ns
from revati.latency.store import StandIn, _load, load_profile
from revati.latency.work import AttentionShape, MoeShape, Work
from revati.spec import UnknownGpuError, list_gpus, profiles_dir
from tests.latency.records import flash, mm, record, tensor


@pytest.mark.parametrize(
    "gpu", ["h100_sxm", "h200_sxm", "b200_sxm", "a100_sxm", "l40s", "rtx4090", "rtx_pro_6000"]
)
def test_every_profile_prices_a_layer(gpu):
    predictor = Predictor(gpu)
    for rec in (
        mm(8, 6144, 4096),
        flash([(1, 300)] * 8),
        flash([(200, 200)]),
        flash([(1, 300)] * 8 + [(64, 512)]),
    ):
        got = predictor.predict(rec)
        assert got.confidence != "roofline" and 1e3 < got.duration_ns < 5e6


def test_gemm_is_near_the_table_and_above_the_roofline(h100):
    # qkv, o, gate_up and down of Qwen3-8B at one token: 20, 15, 68 and 37 us (table), 1 us of it the gap
    for (n, k), us in {(6144, 4096): 20, (4096, 4096): 15, (24576, 4096): 68, (4096, 12288): 37}.items():
        got = h100.predict(mm(1, n, k))
        assert got.duration_ns == pytest.approx((us - 0.9) * 1e3, rel=0.06)
        assert got.confidence == "in_range"
        assert got.duration_ns > Predictor("h100_sxm", mode="roofline").predict(mm(1, n, k)).duration_ns


def test_few_rows_cost_what_their_weights_take(h100):
    """Products of a step of Qwen3-8B, ms. Measured steps of 1 and 4 requests are 0.1 ms apart (v030-chat)."""
    layer = ((6144, 4096), (4096, 4096), (24576, 4096), (4096, 12288))

    def step(rows: int) -> float:
        layers = 36 * sum(h100.predict(mm(rows, *size)).duration_ns for size in layer)
        return (layers + h100.predict(mm(rows, 151936, 4096)).duration_ns) / 1e6

    steps = [step(rows) for rows in (1, 2, 4, 16, 32)]
    assert steps == pytest.approx([5.38, 5.41, 5.42, 5.52, 5.64], abs=0.01)
    assert steps[2] / steps[0] < 1.02


def test_large_products_run_at_what_the_card_sustains(h100):
    # 0.32 GFLOP a row: the table has 780 TFLOP/s at 8192 rows, a loop of such products keeps up 720
    sustained = h100.spec.sustained_flops["bf16"]
    large, flops = h100.predict(mm(8192, 24576, 4096)), 2.0 * 8192 * 24576 * 4096
    assert large.duration_ns == pytest.approx(flops / sustained * 1e9)
    assert large.duration_ns > h100.profile.estimate(gemm_work(8192, 24576, 4096, "bf16"))[0]
    small = gemm_work(64, 24576, 4096, "bf16")
    assert h100.predict(mm(64, 24576, 4096)).duration_ns == h100.profile.estimate(small)[0]


@pytest.mark.parametrize("kind", ["bf16", "fp4"])
def test_a_b200_sustains_less_than_its_tables_in_every_format(kind):
    b200 = Predictor("b200_sxm")
    work = gemm_work(16384, 65536, 5120, kind)
    table_ns, _ = b200.profile.estimate(work)
    sustained_ns = work.flops / b200.spec.sustained_flops[kind] * 1e9
    assert 1.1 < sustained_ns / table_ns < 1.4
    assert b200.predict_work(work).duration_ns == pytest.approx(sustained_ns)


@pytest.mark.parametrize(("rows", "confidence"), [(64, "in_range"), (8192, "outside")])
def test_the_long_products_of_flashinfers_bmm_fp8_are_known_to_be_unknown(rows, confidence):
    a, b = tensor(1, rows, 4096, dtype="float8_e4m3fn"), tensor(1, 4096, 6144, dtype="float8_e4m3fn")
    got = Predictor("b200_sxm").predict(record("flashinfer::bmm_fp8", (tensor(1, rows, 6144),), a=a, b=b))
    assert got.confidence == confidence and got.family == "gemm"


def test_more_keys_never_cost_less(h100):
    times = [h100.predict(flash([(1, keys)] * 16)).duration_ns for keys in range(256, 8192, 256)]
    assert all(b > a * 0.97 for a, b in itertools.pairwise(times)) and times[-1] > 3 * times[0]


def test_a_mixed_call_costs_more_than_either_part(h100):
    both = h100.predict(flash([(1, 2000)] * 32 + [(512, 512)])).duration_ns
    assert both > max(
        h100.predict(flash([(1, 2000)] * 32)).duration_ns, h100.predict(flash([(512, 512)])).duration_ns
    )


@pytest.mark.parametrize(("gpu", "heads"), [("rtx4090", 32), ("rtx_pro_6000", 64)])
def test_decodes_beside_prefills_cost_tiles_under_flash_attention_2(gpu, heads):
    """Against the model of measured mixed calls: what cards without such measurements are priced by."""
    measured, tiles, parts = (families.load("attention", load_profile(gpu)) for _ in range(3))
    del tiles.boosters["mixed"], parts.boosters["mixed"]
    tiles.unpacked, parts.unpacked = True, False
    off_tiles, off_parts = [], []
    for chunk, decodes, keys in itertools.product((256, 1024), (16, 64, 128), (512, 2048, 8192)):
        seqs = ((chunk, chunk + 1024), *[(1, keys)] * decodes)
        work = Work(family="attention", shape=AttentionShape(seqs, heads, 8, 128, 128))
        truth = measured.estimate(work)[0]
        off_tiles.append(abs(tiles.estimate(work)[0] / truth - 1))
        off_parts.append(abs(parts.estimate(work)[0] / truth - 1))
    assert fmean(off_tiles) < 0.2 < 0.4 < fmean(off_parts)


def test_the_kernel_of_a_card_decides_what_decodes_beside_prefills_cost(h100):
    alone = tuple((1, 2000) for _ in range(64))
    shapes = [alone, ((1024, 2048),), (*alone, (1024, 2048))]
    for gpu, more in (("h100_sxm", 1.05), ("a100_sxm", 1.6), ("l40s", 1.1)):
        decode, prefill, both = (
            load_profile(gpu).estimate(Work(family="attention", shape=AttentionShape(s, 40, 8, 128, 128)))[0]
            for s in shapes
        )
        assert decode + prefill - 6000 <= both <= 3 * (decode + prefill)
        assert both < more * (decode + prefill) if gpu == "h100_sxm" else both > more * (decode + prefill)


def test_out_of_range_is_said(h100):
    assert h100.predict(mm(8, 6144, 4096)).confidence == "in_range"
    assert h100.predict(mm(60_000, 6144, 4096)).confidence == "edge"
    assert h100.predict(mm(300_000, 6144, 4096)).confidence == "outside"


def test_an_unknown_op_is_priced_by_its_bytes(h100):
    got = h100.predict(record("_Z::mystery", (tensor(1 << 20),), x=tensor(1 << 20)))
    assert got.confidence == "roofline" and got.duration_ns >= 1500
    with pytest.raises(StrictError, match="_Z::mystery"):
        Predictor("h100_sxm", strict=True).predict(record("_Z::mystery", (), x=tensor(1 << 20)))


def test_a_malformed_record_warns_once_and_never_raises(h100):
    bad = record("aten::bmm", (), self=tensor(4), mat2=tensor(4, 4, 4))
    odd = record("_vllm_fa3_C::fwd", (), q=tensor(3, 2, 1), k="what", v=None)
    for rec in (
        bad,
        odd,
        record("aten::mm"),
        record("copy::h2d"),
        record("c10d::allreduce"),
        record("triton::x"),
    ):
        assert h100.predict(rec).duration_ns >= 0


def test_all_reduce_uses_the_custom_kernel_while_it_may(h100):
    small = h100.predict(record("c10d::allreduce", (), tensor=tensor(8, 8192), world_size=4, reduce_op="sum"))
    large = h100.predict(
        record("c10d::allreduce", (), tensor=tensor(8192, 8192), world_size=4, reduce_op="sum")
    )
    assert small.duration_ns < 10e3 < 300e3 < large.duration_ns
    alone = h100.predict(record("c10d::allreduce", (), tensor=tensor(8, 8192), world_size=1, reduce_op="sum"))
    assert alone.duration_ns == 0


def test_experts_cost_by_active_weights(h100):
    def rec(tokens):
        return record(
            "triton::fused_moe_kernel",
            (),
            a_ptr=tensor(tokens, 2048),
            b_ptr=tensor(128, 1536, 2048),
            c_ptr=tensor(tokens, 8, 1536),
            num_valid_tokens=tokens * 8,
            MUL_ROUTED_WEIGHT=False,
            top_k=8,
        )

    one, many = h100.predict(rec(1)).duration_ns, h100.predict(rec(64)).duration_ns
    assert many > 4 * one


@pytest.mark.parametrize("tokens", [512, 8192])
def test_products_activation_and_sum_of_experts_add_up_to_the_whole_layer(h100, tokens):
    """The table's time of a layer is that of all its kernels, and Triton's path launches each on its own."""
    top_k, hidden, inter = 8, 4096, 192
    rows = tokens * top_k
    profile = load_profile("h100_sxm")

    def experts(n, k, stage):
        return profile.estimate(moe_work(MoeShape(tokens, top_k, 128, n, k, "bf16", stage)))[0]

    summed = h100.predict(
        record("_moe_C::moe_sum", (), input=tensor(tokens, top_k, hidden), output=tensor(tokens, hidden))
    )
    activation = h100.predict(
        record("_C::silu_and_mul", (), result=tensor(rows, inter), input=tensor(rows, 2 * inter))
    )
    products = experts(2 * inter, hidden, "up") + experts(hidden, inter, "down")
    whole = experts(2 * inter, hidden, "both")
    assert products + summed.duration_ns + activation.duration_ns == pytest.approx(whole, rel=0.03)


def test_unmeasured_experts_take_the_ratio_to_the_roofline_from_another_card():
    """As if the L40S had no table: nearer to what was measured there than its roofline."""
    measured, other = load_profile("l40s"), load_profile("h100_sxm")
    borrowed = StandIn(measured.spec, other)
    off, off_roofline = [], []
    shapes = ((8, 128, 384, 4096, "up"), (8, 128, 4096, 192, "down"), (2, 8, 28672, 4096, "up"))
    for tokens, shape in itertools.product((64, 512, 2048, 8192), shapes):
        work = moe_work(MoeShape(tokens, *shape[:4], "bf16", shape[4]))
        truth = measured.estimate(work)[0]
        ns, confidence = borrowed.estimate(work)
        off.append(abs(ns / truth - 1))
        off_roofline.append(abs(roofline_estimate_ns(work, measured.spec) / truth - 1))
        assert confidence == "outside"
    assert fmean(off) < 0.15 and fmean(off) < fmean(off_roofline) / 2
    work = moe_work(MoeShape(2048, 8, 128, 384, 4096, "bf16", "up"))
    a100 = load_profile("a100_sxm")
    assert a100.estimate(work)[0] > 1.3 * roofline_estimate_ns(work, a100.spec)


def test_a_step_of_qwen3_8b_on_h100_is_near_the_measured_one(h100):
    # Measured 7.28 ms at batch 1 (vLLM 0.11); host work and sampling are not in this sum.
    layer = [mm(1, 6144, 4096), mm(1, 4096, 4096), mm(1, 24576, 4096), mm(1, 4096, 12288), flash([(1, 300)])]
    layer += [record("_C::fused_add_rms_norm", (), input=tensor(1, 4096), residual=tensor(1, 4096))] * 2
    layer += [record("_C::silu_and_mul", (), result=tensor(1, 12288), input=tensor(1, 24576))]
    layer += [record("_C::rotary_embedding", (), query=tensor(1, 4096), key=tensor(1, 1024))]
    layer += [record("_C::rms_norm", (), result=tensor(1, 4096), input=tensor(1, 4096))] * 2
    layer += [
        record("_C_cache_ops::reshape_and_cache_flash", (), key=tensor(1, 8, 128), value=tensor(1, 8, 128))
    ]
    kernels = 36 * layer + [mm(1, 151936, 4096)]
    total = sum(h100.predict(r).duration_ns + h100.spec.graph_kernel_gap_ns for r in kernels)
    assert 6.4e6 < total < 7.28e6


def test_predictions_are_fast(h100):
    h100.predict(flash([(1, 100)] * 8))
    start = time.thread_time()
    for keys in range(200):
        h100.predict(flash([(1, 1000 + keys)] * 8))
    assert (time.thread_time() - start) / 200 < 1.5e-3


def test_bad_mode_and_gpu():
    with pytest.raises(ValueError, match="expected one of profile, roofline"):
        Predictor("h100_sxm", mode="magic")
    with pytest.raises(UnknownGpuError, match="known:"):
        Predictor("h900")


@pytest.fixture
def copy(tmp_path, monkeypatch):
    shutil.copytree(profiles_dir() / "rtx4090", tmp_path / "rtx4090")
    monkeypatch.setenv("REVATI_PROFILES", str(tmp_path))
    _load.cache_clear()
    yield tmp_path / "rtx4090"
    _load.cache_clear()


def test_a_truncated_model_is_one_clear_error(copy):
    path = copy / "models" / "gemm_bf16.ubj.gz"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ProfileError, match=r"gemm_bf16.*corrupt or truncated"):
        Predictor("rtx4090").predict(mm(1, 2, 3))


def test_a_missing_model_and_broken_json_are_clear_errors(copy):
    (copy / "models" / "gemm_bf16.ubj.gz").unlink()
    with pytest.raises(ProfileError, match="missing"):
        Predictor("rtx4090").predict(mm(1, 2, 3))
    (copy / "provenance.json").write_text("{")
    _load.cache_clear()
    with pytest.raises(ProfileError, match="not readable as JSON"):
        load_profile("rtx4090")


def test_a_spec_alone_is_a_roofline_profile(copy):
    (copy / "provenance.json").unlink()
    (copy / "bandwidth.json").unlink()
    assert Predictor("rtx4090").predict(mm(1, 4096, 4096)).confidence == "roofline"


def test_shipped_profiles_are_complete_small_and_hashed():
    total = 0
    for gpu in list_gpus():
        profile = load_profile(gpu)
        assert profile.provenance["sources"] and profile.bandwidth["norm"].start_ns > 1000
        for name in profile.provenance["files"]:
            total += profile._checked(name).stat().st_size
        assert not any(source["file"][0] == "/" for source in profile.provenance["sources"])
        json.dumps(profile.provenance)
    assert total < 40e6


def test_rows_between_the_ends_of_a_step_cost_between_them(h100):
    def fp8_ns(rows):
        return h100.predict_work(gemm_work(rows, 8192, 7168, "fp8")).duration_ns

    lower, upper = fp8_ns(769), fp8_ns(1024)
    assert lower > 1.2 * upper, "a Hopper fp8 kernel is slow on tiles that are nearly empty"
    for rows in (800, 896, 897, 922, 1000, 1023):
        line = lower + (rows - 769) / (1024 - 769) * (upper - lower)
        assert fp8_ns(rows) == pytest.approx(line, rel=1e-6)


@pytest.mark.parametrize(
    ("rows", "measured", "expected"),
    [
        (922, {513, 768, 769, 1024, 1025}, (769, 1024)),
        (5000, {513, 768, 769, 1024, 1025}, (4865, 5120)),
        (769, {513, 768, 769, 1024}, (769, 769)),
        (200, {129, 256, 513}, (200, 200)),
        (922, {512, 1024, 2048}, (922, 922)),
        (922, {513, 768, 769, 800, 1024}, (922, 922)),
    ],
    ids=["inside", "beyond the table", "an end", "small", "no such table", "measured inside"],
)
def test_ends_of_a_step(rows, measured, expected):
    assert step_ends(rows, frozenset(measured)) == expected


def test_symmetric_memory_is_priced_by_its_own_line_where_the_spec_has_one(h100):
    def ns(implementation, ranks=4, mib=14):
        return h100.predict_work(
            collective_work("allreduce", mib * 2**20, ranks, "bfloat16", implementation)
        ).duration_ns

    line = h100.spec.symm_mem_all_reduce[4]
    assert ns("symm_mem") == pytest.approx(line.base_ns + 14 * 2**20 / line.bytes_per_s * 1e9)
    assert ns("symm_mem") < ns("nccl")
    assert ns("symm_mem", ranks=6) == ns("nccl", ranks=6), "no line for six ranks"


def _rate(gpu: str, query: int, keys: int, causal: bool = True) -> float:
    """Operations a nanosecond of one sequence's prefill."""
    work = attention_work(AttentionShape(((query, keys),), 16, 16, 192, 128, causal=causal))
    estimate = load_profile(gpu).estimate(work)
    assert estimate is not None
    return work.flops / estimate[0]


@pytest.mark.parametrize("gpu", ["a100_sxm", "b200_sxm", "h100_sxm", "h200_sxm", "l40s"])
def test_attention_to_many_keys_keeps_its_rate_beyond_what_was_measured(gpu: str) -> None:
    """Trees took keys beyond the table's for wider heads, at two thirds of the rate."""
    at_16384 = _rate(gpu, 8192, 16384)
    for keys in (24576, 32768, 65536, 131072):
        assert _rate(gpu, 8192, keys) == pytest.approx(at_16384, rel=0.1)


@pytest.mark.parametrize("gpu", ["a100_sxm", "b200_sxm", "h100_sxm", "h200_sxm", "l40s", "rtx4090"])
def test_attention_without_a_mask_has_the_rate_of_attention_with_one(gpu: str) -> None:
    """Latent attention reads a prompt's cached part so: it was priced as 15 times its operations."""
    for query, keys in ((8192, 24576), (8192, 8192), (1024, 16384)):
        causal = _rate(gpu, query, keys + query // 2)  # as many pairs
        assert _rate(gpu, query, keys, causal=False) == pytest.approx(causal, rel=0.02)
    few_keys = _rate(gpu, 16384, 2048, causal=False)
    assert few_keys == pytest.approx(_rate(gpu, 4096, 4096), rel=0.35)
