"""What an importer makes of a source's tables."""

import pandas as pd
import pytest

from revati.profiler.importers import aiconfigurator

COMMON = {"framework": "VLLM", "version": "0.24.0", "device": "NVIDIA H100 80GB HBM3"}


@pytest.fixture
def systems(tmp_path):
    """A systems/data folder with four products and the quantisation of one of their (m, k)."""
    base = tmp_path / "h100_sxm"
    gemm = pd.DataFrame(
        [
            ("bfloat16", 8, 64, 4096, 0.010, "torch.nn.functional.linear"),
            ("fp8", 8, 64, 4096, 0.009, "CutlassFP8ScaledMMLinearKernel"),
            ("fp8", 8, 64, 2048, 0.009, "CutlassFP8ScaledMMLinearKernel"),
            ("nvfp4", 8, 64, 4096, 0.008, "FlashInferCutlassNvFp4LinearKernel"),
            ("fp8", 8, 64, 4096, 0.005, "a_bare_product"),
        ],
        columns=["gemm_dtype", "m", "n", "k", "latency", "kernel_source"],
    )
    tables = {"gemm/vllm/0.24.0/gemm": gemm}
    for name, ms in (("scale_matrix", 0.002), ("computescale", 0.001)):
        row = {"op_name": name, "kernel_source": name, "m": 8, "k": 4096, "quant_dtype": "fp8", "latency": ms}
        tables[f"quantize/vllm/0.24.0/{name}"] = pd.DataFrame([row])
    for name, table in tables.items():
        path = base / f"{name}_perf.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        table.assign(**COMMON).to_parquet(path)
    return tmp_path


def test_the_quantisation_of_a_linear_layer_is_taken_off(systems):
    rows = aiconfigurator.load(systems, "h100_sxm")
    rows = rows[rows["family"] == "gemm"]
    found = {(r.kind, r.implementation[:7], r.k): round(r.latency_ns) for r in rows.itertuples()}
    assert found == {
        ("bf16", "torch.n", 4096): 10_000,
        ("fp8", "Cutlass", 4096): 6_000,  # 9 us less 2 + 1 us; k = 2048 has no known quantisation
        ("fp4", "FlashIn", 4096): 6_000,
        ("fp8", "a_bare_", 4096): 5_000,
    }


def test_the_newest_version_of_a_table_is_used(systems):
    older = systems / "h100_sxm" / "gemm" / "vllm" / "0.9.0"
    older.mkdir()
    (older / "gemm_perf.parquet").write_bytes(b"not read")
    files = aiconfigurator.source_files(systems, "h100_sxm", "vllm")
    assert files["gemm"].parent.name == "0.24.0"
