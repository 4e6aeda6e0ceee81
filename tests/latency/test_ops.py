"""What work the extractors see in a record."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from revati.latency import OpRecord
from revati.latency.ops import extract, live_args
from revati.latency.ops.attention import visible_pairs
from revati.latency.ops.moe import active_experts
from revati.latency.work import AttentionShape, GemmShape, MoeShape
from tests.latency.records import flash, mm, record, tensor


def shape_of(rec):
    return extract(rec)[0].shape


def test_products():
    assert shape_of(mm(3, 5, 7)) == GemmShape(3, 5, 7, "bf16")
    linear = record("aten::linear", (), input=tensor(2, 3, 64), weight=tensor(128, 64), bias=None)
    assert shape_of(linear) == GemmShape(6, 128, 64, "bf16")
    addmm = record("aten::addmm", (), self=tensor(8), mat1=tensor(4, 16), mat2=tensor(16, 8))
    assert shape_of(addmm) == GemmShape(4, 8, 16, "bf16")
    bmm = record("aten::bmm", (), self=tensor(10, 4, 16), mat2=tensor(10, 16, 8))
    assert shape_of(bmm) == GemmShape(4, 8, 16, "bf16", 10)


@pytest.mark.parametrize(("scale", "kind"), [((1,), "fp8"), ((64, 1), "fp8"), ((64, 32), "fp8_block")])
def test_scaled_products(scale, kind):
    rec = record(
        "_C::cutlass_scaled_mm",
        (),
        out=tensor(64, 256),
        a=tensor(64, 4096, dtype="float8_e4m3fn"),
        b=tensor(4096, 256, dtype="float8_e4m3fn"),
        a_scales=tensor(*scale, dtype="float32"),
        b_scales=None,
        bias=None,
    )
    assert shape_of(rec) == GemmShape(64, 256, 4096, kind)


def test_marlin_is_weight_only():
    rec = record(
        "_C::marlin_gemm",
        (),
        a=tensor(8, 4096),
        b_q_weight=tensor(256, 8192, dtype="int32"),
        size_m=8,
        size_n=4096,
        size_k=4096,
    )
    assert shape_of(rec) == GemmShape(8, 4096, 4096, "int4_wo")


def test_flash_attention_reads_live_lengths():
    shape = shape_of(flash([(1, 300), (1, 40), (128, 512)]))
    assert shape == AttentionShape(((1, 300), (1, 40), (128, 512)), 32, 8, 128, 128)
    assert live_args("_vllm_fa3_C::fwd") == ("cu_seqlens_q", "cu_seqlens_k", "seqused_k")
    assert live_args("aten::mm") == ()


def test_padded_sequences_of_a_graph_cost_nothing():
    assert shape_of(flash([(1, 300), (0, 0), (1, 0)])).seqs == ((1, 300),)


def test_attention_without_live_values_is_marked():
    rec = flash([(1, 300)] * 4)
    blind = OpRecord(
        rec.name,
        tuple(a._replace(values=None) if hasattr(a, "values") else a for a in rec.args),
        (),
        rec.arg_names,
    )
    assert not shape_of(blind).known


def test_unified_triton_attention():
    rec = record(
        "triton::kernel_unified_attention",
        (),
        query_ptr=tensor(2, 16, 64),
        key_cache_ptr=tensor(10, 16, 2, 64),
        seq_lens_ptr=tensor(2, values=[5, 9]),
        query_start_len_ptr=tensor(3, values=[0, 1, 2]),
        SLIDING_WINDOW=0,
    )
    assert shape_of(rec).seqs == ((1, 5), (1, 9))


def test_attention_of_flashinfer_on_blackwell():
    pages = tensor(10, 8, 16, 128)  # key heads before rows of a page
    decode = record(
        "flashinfer::trtllm_batch_decode_with_kv_cache",
        (),
        query=tensor(4, 32, 128),
        k_cache=pages,
        seq_lens=tensor(4, values=[5, 9, 0, 0]),  # padded, as graphs are
        cum_seq_lens_q=None,
        window_left=-1,
    )
    assert shape_of(decode) == AttentionShape(((1, 5), (1, 9)), 32, 8, 128, 128)
    prompts = record(
        "flashinfer::trtllm_batch_context_with_kv_cache",
        (),
        query=tensor(7, 32, 128),
        k_cache=pages,
        seq_lens=tensor(2, values=[20, 4]),
        cum_seq_lens_q=tensor(3, values=[0, 3, 7]),
        window_left=127,
    )
    assert shape_of(prompts) == AttentionShape(((3, 20), (4, 4)), 32, 8, 128, 128, window=128)
    for op in ("decode", "context"):
        assert live_args(f"flashinfer::trtllm_batch_{op}_with_kv_cache") == ("seq_lens", "cum_seq_lens_q")


def test_flash_attention_4_and_latent_decode():
    prefill = record(
        "flash_attention_4::fwd",
        (),
        q=tensor(7, 128, 192),
        k=tensor(7, 128, 192),
        v=tensor(7, 128, 128),
        q_v=None,
        cu_seqlens_q=tensor(3, values=[0, 3, 7]),
        cu_seqlens_k=tensor(3, values=[0, 3, 7]),
        seqused_k=None,
        window_size_left=-1,
        is_causal=True,
    )
    assert shape_of(prefill) == AttentionShape(((3, 3), (4, 4)), 128, 128, 192, 128)
    decode = record(
        "flashinfer::trtllm_batch_decode_with_kv_cache_mla",
        (),
        q=tensor(2, 3, 128, 576),  # three new tokens a sequence
        k_cache=tensor(100, 1, 64, 576),
        seq_lens=tensor(2, values=[10, 20]),
    )
    assert shape_of(decode) == AttentionShape(((3, 10), (3, 20)), 128, 1, 576, 0)


def test_products_of_flashinfer():
    fp8 = record(
        "flashinfer::bmm_fp8",
        (),
        a=tensor(1, 64, 4096, dtype="float8_e4m3fn"),
        b=tensor(1, 4096, 256, dtype="float8_e4m3fn"),
    )
    assert shape_of(fp8) == GemmShape(64, 256, 4096, "fp8")
    fp4 = record(
        "flashinfer::mm_fp4",
        (),
        a=tensor(64, 2048, dtype="uint8"),
        b=tensor(2048, 256, dtype="uint8"),
    )
    assert shape_of(fp4) == GemmShape(64, 256, 4096, "fp4")


@pytest.mark.parametrize(("local", "tokens", "topk"), [(128, 10, 8), (16, 10, 1), (4, 2, 1)])
def test_experts_of_flashinfer_are_those_of_the_rank(local, tokens, topk):
    rec = record(
        "flashinfer::trtllm_bf16_moe",
        (),
        hidden_states=tensor(10, 2048),
        hidden_size=2048,
        intermediate_size=768,
        top_k=8,
        num_experts=128,
        local_num_experts=local,
    )
    assert shape_of(rec) == MoeShape(tokens, topk, local, 1536, 2048, "bf16", "both")


def test_fused_moe_stages():
    up = record(
        "triton::fused_moe_kernel",
        (),
        a_ptr=tensor(8, 2048),
        b_ptr=tensor(128, 1536, 2048),
        c_ptr=tensor(8, 8, 1536),
        num_valid_tokens=64,
        MUL_ROUTED_WEIGHT=False,
        top_k=8,
    )
    assert shape_of(up) == MoeShape(8, 8, 128, 1536, 2048, "bf16", "up")
    down = record(
        "triton::fused_moe_kernel",
        (),
        a_ptr=tensor(64, 768),
        b_ptr=tensor(128, 2048, 768),
        c_ptr=tensor(8, 8, 2048),
        num_valid_tokens=64,
        MUL_ROUTED_WEIGHT=True,
        top_k=1,
    )
    assert shape_of(down) == MoeShape(8, 8, 128, 2048, 768, "bf16", "down")


def test_bytes_of_small_ops():
    norm = record(
        "_C::rms_norm", (), result=tensor(8, 4096), input=tensor(8, 4096), weight=tensor(4096), epsilon=1e-6
    )
    assert extract(norm)[0].bytes == 2 * 8 * 4096 * 2 + 4096 * 2
    cache = tensor(100_000, 16, 8, 128)
    write = record(
        "_C_cache_ops::reshape_and_cache_flash",
        (),
        key=tensor(8, 8, 128),
        value=tensor(8, 8, 128),
        key_cache=cache,
        value_cache=cache,
        slot_mapping=tensor(8, dtype="int64"),
    )
    assert extract(write)[0].bytes < 100_000
    gather = record(
        "aten::embedding", (tensor(8, 4096),), weight=tensor(151936, 4096), indices=tensor(8, dtype="int64")
    )
    assert extract(gather)[0].bytes == pytest.approx(2 * 8 * 4096 * 2 + 64)


def test_expanded_tensors_are_read_once():
    wide = tensor(1, 4096)._replace(shape=(1000, 4096), stride=(0, 1))
    add = record("aten::add.Tensor", (tensor(1000, 4096),), self=tensor(1000, 4096), other=wide)
    assert extract(add)[0].read_bytes == 1000 * 4096 * 2 + 4096 * 2


def test_an_unknown_op_does_not_sweep_its_caches():
    rec = record("_C::brand_new", (), x=tensor(8, 4096), kv_cache=tensor(1_000_000, 4096))
    work, known = extract(rec)
    assert not known and work.bytes == 8 * 4096 * 2


def test_views_launch_nothing():
    assert extract(record("aten::view", (), self=tensor(4)))[0].kernels == 0


@given(query=st.integers(1, 60), context=st.integers(0, 60), window=st.integers(0, 40))
def test_visible_pairs_counts_like_a_loop(query, context, window):
    total = query + context
    count = sum(min(context + i + 1, window or total) for i in range(query))
    assert visible_pairs(query, total, window, True) == count


def test_active_experts_matches_a_draw():
    rng = np.random.RandomState(0)
    drawn = [len({e for _ in range(16) for e in rng.permutation(64)[:4]}) for _ in range(300)]
    assert active_experts(16, 4, 64) == pytest.approx(np.mean(drawn), rel=0.02)


def test_deep_gemm_products():
    fp8 = "float8_e4m3fn"
    a, b = tensor(64, 7168, dtype=fp8), tensor(2112, 7168, dtype=fp8)
    dense = record("deep_gemm::fp8_fp4_gemm_nt", (), a=a, sfa=None, b=b, sfb=None, d=tensor(64, 2112))
    assert shape_of(dense) == GemmShape(64, 2112, 7168, "fp8_block")

    experts, rows = tensor(256, 4096, 7168, dtype=fp8), 64 * 8
    padded = tensor(rows + 256 * 127, 7168, dtype=fp8)
    grouped = record(
        "deep_gemm::m_grouped_fp8_fp4_gemm_nt_contiguous", (), a=padded, sfa=None, b=experts, sfb=None
    )
    assert shape_of(grouped) == MoeShape(rows, 1, 256, 4096, 7168, "fp8_block", "up")

    masked = record(
        "deep_gemm::m_grouped_fp8_fp4_gemm_nt_masked",
        (),
        a=tensor(256, 1024, 2048, dtype=fp8),
        b=tensor(256, 7168, 2048, dtype=fp8),
        expected_m=16,
    )
    assert shape_of(masked) == MoeShape(256 * 16, 1, 256, 7168, 2048, "fp8_block", "down")


@pytest.mark.parametrize(("gather", "rows", "stage"), [(True, 16, "up"), (False, 64, "down")])
def test_triton_kernels_of_gpt_oss(gather, rows, stage):
    rec = record(
        "triton::_matmul_ogs",
        (),
        XPtr=tensor(rows, 2880),
        WPtr=tensor(128, 1440, 5760, dtype="uint8"),
        GatherIndx=tensor(64, dtype="int32") if gather else None,
        N=5760,
        K=2880,
        N_EXPTS_TOT=128,
        N_EXPTS_ACT=4,
    )
    assert shape_of(rec) == MoeShape(16, 4, 128, 5760, 2880, "mxfp4_wo", stage)
