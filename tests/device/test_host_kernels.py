"""The native host twins of vLLM's Triton kernels write what the kernels write in Triton's interpreter."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from revati import _C

PROGRAM = Path(__file__).parent / "programs" / "interpreted_kernels.py"
ROWS = 12  # of the tables that hold one row a request
CASES = 25  # of each kernel


def ints(*values: int, dtype: str = "int32") -> dict[str, Any]:
    return {"values": list(values), "dtype": dtype}


def zeros(*shape: int, dtype: str = "int32") -> dict[str, Any]:
    return {"values": torch.zeros(shape).tolist(), "dtype": dtype}


def bounds(counts: list[int]) -> dict[str, Any]:
    return ints(*[sum(counts[:i]) for i in range(len(counts) + 1)])


class Batch:
    """Some requests, each with a row in the tables, new tokens and logits for the last of these."""

    def __init__(self, rng: random.Random) -> None:
        self.size = rng.randint(1, 8)
        self.rows = rng.sample(range(ROWS), self.size)
        self.lengths = [rng.choice([1, 1, 1, 4, 9]) for _ in self.rows]
        self.logits = [rng.randint(1, min(3, length)) for length in self.lengths]
        self.table = [rng.randint(0, 20) for _ in range(ROWS)]
        self.prefill = [rng.randint(0, 30) for _ in range(ROWS)]
        self.rng = rng

    def some(self, low: int, high: int) -> list[int]:
        return [self.rng.randint(low, high) for _ in self.rows]


def launch(
    kernel: str, grid: int, written: list[str], file: str = "input_batch.py", **arguments: Any
) -> dict[str, Any]:
    """A case: a kernel of vLLM, its arguments, and those of them whose content afterwards is compared."""
    return {"file": file, "kernel": kernel, "grid": [grid], "arguments": arguments, "written": written}


def prepare_pos_seq_lens(b: Batch) -> dict[str, Any]:
    return launch(
        "_prepare_pos_seq_lens_kernel",
        b.size + 1,
        ["pos_ptr", "seq_lens_ptr"],
        pos_ptr=zeros(sum(b.lengths) + 3, dtype="int64"),
        seq_lens_ptr=ints(*range(100, 100 + ROWS)),
        idx_mapping_ptr=ints(*b.rows),
        query_start_loc_ptr=bounds(b.lengths),
        num_computed_tokens_ptr=ints(*b.table),
        max_num_reqs=ROWS,
        BLOCK_SIZE=4,
    )


def num_sampled_and_rejected(b: Batch) -> dict[str, Any]:
    return launch(
        "_get_num_sampled_and_rejected_kernel",
        b.size,
        ["num_sampled_ptr", "num_rejected_ptr"],
        num_sampled_ptr=ints(*[b.rng.randint(1, n) for n in b.logits]),
        num_rejected_ptr=zeros(b.size),
        seq_lens_ptr=ints(*b.some(1, 40)),
        cu_num_logits_ptr=bounds(b.logits),
        idx_mapping_ptr=ints(*b.rows),
        prefill_len_ptr=ints(*b.prefill),
    )


def post_update(b: Batch) -> dict[str, Any]:
    """With padding rows, with and without new tokens."""
    tokens = [[b.rng.randint(0, 40) for _ in range(3)] for _ in b.rows]
    rows = [-1 if b.rng.random() < 0.2 else row for row in b.rows]
    return launch(
        "_post_update_kernel",
        b.size,
        [
            "num_computed_tokens_ptr",
            "last_sampled_tokens_ptr",
            "all_token_ids_ptr",
            "total_len_ptr",
        ],
        idx_mapping_ptr=ints(*rows),
        num_computed_tokens_ptr=ints(*b.table),
        last_sampled_tokens_ptr=zeros(ROWS, 1, dtype="int64"),
        output_bin_counts_ptr=None,
        output_bin_counts_stride=0,
        sampled_tokens_ptr={"values": tokens, "dtype": "int64"},
        sampled_tokens_stride=3,
        num_sampled_ptr=ints(*b.some(0, 3)),
        num_rejected_ptr=ints(*b.some(0, 2)),
        query_start_loc_ptr=bounds(b.lengths) if b.rng.random() < 0.8 else None,
        all_token_ids_ptr=zeros(ROWS, 64),
        all_token_ids_stride=64,
        total_len_ptr=ints(*b.table),
    )


def post_update_computed(b: Batch) -> dict[str, Any]:
    return launch(
        "_post_update_num_computed_tokens_kernel",
        b.size,
        ["num_computed_tokens_ptr"],
        idx_mapping_ptr=ints(*b.rows),
        num_computed_tokens_ptr=ints(*b.table),
        query_start_loc_ptr=bounds(b.lengths),
    )


def expand_idx_mapping(b: Batch) -> dict[str, Any]:
    return launch(
        "_expand_idx_mapping_kernel",
        b.size,
        ["expanded_idx_mapping_ptr", "expanded_local_pos_ptr"],
        idx_mapping_ptr=ints(*b.rows),
        expanded_idx_mapping_ptr=zeros(sum(b.logits)),
        expanded_local_pos_ptr=zeros(sum(b.logits)),
        cu_num_logits_ptr=bounds(b.logits),
        BLOCK_SIZE=4,
    )


def combine_sampled_and_draft_tokens(b: Batch) -> dict[str, Any]:
    return launch(
        "_combine_sampled_and_draft_tokens_kernel",
        b.size,
        ["logits_indices_ptr"],
        input_ids_ptr=zeros(sum(b.lengths)),
        idx_mapping_ptr=ints(*b.rows),
        last_sampled_tokens_ptr=zeros(ROWS, dtype="int64"),
        query_start_loc_ptr=bounds(b.lengths),
        seq_lens_ptr=ints(*b.some(1, 40)),
        prefill_len_ptr=ints(*b.prefill),
        draft_tokens_ptr=zeros(ROWS, 4, dtype="int64"),
        draft_tokens_stride=4,
        cu_num_logits_ptr=bounds(b.logits),
        logits_indices_ptr=zeros(sum(b.logits), dtype="int64"),
        BLOCK_SIZE=4,
    )


def apply_write(b: Batch, *, output: dict[str, Any], stride: Any, groups: Any, dtype: str) -> dict[str, Any]:
    counts = b.some(1, 6)
    return launch(
        "_apply_write_kernel",
        b.size,
        ["behind pointers"] if groups is not None else ["output_ptr"],
        file="buffer_utils.py",
        output_ptr=output,
        output_stride=stride,
        write_indices_ptr=ints(*b.rows),
        write_starts_ptr=ints(*b.some(0, 10)) if stride != 1 else ints(*[0] * b.size),
        write_contents_ptr=ints(*range(1, sum(counts) + 1), dtype=dtype),
        write_cu_lens_ptr=ints(*[sum(counts[: i + 1]) for i in range(b.size)]),
        write_group_ids_ptr=groups,
        BLOCK_SIZE=4,
        MULTI_GROUP=groups is not None,
    )


def write_rows(b: Batch) -> dict[str, Any]:
    dtype = b.rng.choice(["int32", "float32", "int64"])
    return apply_write(b, output=zeros(ROWS, 16, dtype=dtype), stride=16, groups=None, dtype=dtype)


def write_a_vector(b: Batch) -> dict[str, Any]:
    b.rows.sort()
    return apply_write(b, output=zeros(ROWS + 8), stride=1, groups=None, dtype="int32")


def write_groups(b: Batch) -> dict[str, Any]:
    output = {"pointers_of": [zeros(ROWS, 16)["values"], zeros(ROWS, 32)["values"]]}
    return apply_write(
        b, output=output, stride=ints(16, 32, dtype="int64"), groups=ints(*b.some(0, 1)), dtype="int32"
    )


KERNELS = [
    prepare_pos_seq_lens,
    num_sampled_and_rejected,
    post_update,
    post_update_computed,
    expand_idx_mapping,
    combine_sampled_and_draft_tokens,
    write_rows,
    write_a_vector,
    write_groups,
]


def run_twin(case: dict[str, Any]) -> dict[str, Any]:
    """What the twin leaves in the tensors of a case."""
    behind: list[torch.Tensor] = []

    def tensor_of(value: dict[str, Any]) -> torch.Tensor:
        if "pointers_of" in value:
            behind.extend(torch.tensor(rows, dtype=torch.int32) for rows in value["pointers_of"])
            addresses = torch.tensor([t.data_ptr() for t in behind], dtype=torch.int64)
            return addresses.to("revati:0")
        return torch.tensor(value["values"], dtype=getattr(torch, value["dtype"]), device="revati:0")

    arguments = {k: tensor_of(v) if isinstance(v, dict) else v for k, v in case["arguments"].items()}
    twin = _C.vllm_host_kernels()[case["kernel"]]
    kernel = _C.Kernel(f"triton::{case['kernel']}", list(arguments), {}, twin)
    kernel.launch((), arguments, tuple(case["grid"]), 0)
    written = {k: v.tolist() for k, v in arguments.items() if isinstance(v, torch.Tensor)}
    return {**written, "behind pointers": [t.tolist() for t in behind]}


@pytest.mark.engine
def test_twins_write_what_the_kernels_write() -> None:
    cases = [make(Batch(random.Random(seed))) for make in KERNELS for seed in range(CASES)]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("REVATI_")}
    done = subprocess.run(
        [sys.executable, str(PROGRAM)],
        input=json.dumps(cases),
        capture_output=True,
        text=True,
        env=environment,
        timeout=300,
        check=True,
    )
    for case, expected in zip(cases, json.loads(done.stdout), strict=True):
        found = run_twin(case)
        for name in case["written"]:
            assert found[name] == expected[name], (case["kernel"], name, case["arguments"])


def test_every_sampled_token_is_the_policys_and_its_score_unknown() -> None:
    arguments = {
        "local_argmax_ptr": torch.zeros(3, 5, dtype=torch.int64, device="revati:0"),
        "local_max_ptr": torch.zeros(3, 5, device="revati:0"),
    }
    twin = _C.vllm_host_kernels()["_gumbel_sample_kernel"]
    _C.Kernel("triton::_gumbel_sample_kernel", list(arguments), {}, twin).launch((), arguments, (3, 5), 0)
    assert arguments["local_argmax_ptr"].tolist() == [[_C.token_id()] * 5] * 3
    assert not _C.is_live(arguments["local_max_ptr"])


def test_a_twin_runs_again_at_every_replay_of_a_graph() -> None:
    names = ["idx_mapping_ptr", "num_computed_tokens_ptr", "query_start_loc_ptr"]
    values = [[1, 0], [10, 20], [0, 3, 4]]
    arguments = {
        name: torch.tensor(value, dtype=torch.int32, device="revati:0")
        for name, value in zip(names, values, strict=True)
    }
    kernel = _C.Kernel(
        "triton::_post_update_num_computed_tokens_kernel",
        names,
        {},
        _C.vllm_host_kernels()["_post_update_num_computed_tokens_kernel"],
    )
    graph = torch.revati.CUDAGraph()
    with torch.revati.graph(graph):
        kernel.launch((), arguments, (2,), 0)
    before = arguments["num_computed_tokens_ptr"].tolist()
    graph.replay()
    graph.replay()
    torch.revati.synchronize()
    assert arguments["num_computed_tokens_ptr"].tolist() == [before[0] + 2 * 1, before[1] + 2 * 3]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"query_start_loc_ptr": None}, "query_start_loc_ptr"),
        ({"idx_mapping_ptr": torch.tensor([1, 99], dtype=torch.int32)}, "element 99 of 2"),
        ({"idx_mapping_ptr": torch.tensor([0.0, 1.0])}, "integers"),
    ],
)
def test_arguments_that_a_twin_cannot_use_are_named(change: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {
        "idx_mapping_ptr": torch.tensor([1, 0], dtype=torch.int32),
        "num_computed_tokens_ptr": torch.tensor([10, 20], dtype=torch.int32),
        "query_start_loc_ptr": torch.tensor([0, 3, 4], dtype=torch.int32),
    }
    moved = {k: v.to("revati:0") for k, v in {**arguments, **change}.items() if v is not None}
    twin = _C.vllm_host_kernels()["_post_update_num_computed_tokens_kernel"]
    kernel = _C.Kernel("triton::_post_update_num_computed_tokens_kernel", list(moved), {}, twin)
    with pytest.raises((IndexError, TypeError, ValueError), match=message):
        kernel.launch((), moved, (2,), 0)
