"""The tables of docs/latency.md are what the commands print."""

from pathlib import Path

from revati.profiler import table

DOCS = Path(__file__).parents[2] / "docs" / "latency.md"


def test_the_held_out_table_is_the_one_of_the_reports():
    text = DOCS.read_text()
    kept = text.partition("<!-- held-out table -->\n")[2].partition("\n<!-- end -->")[0]
    assert kept == table.markdown()
    assert "| h100_sxm | gemm bf16 |" in kept
