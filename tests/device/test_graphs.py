"""Captured graphs against hand-computed timelines and a simulator; values and prices at replay."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from revati import _C
from revati.latency import Predictor
from revati.latency.record import OpRecord, TensorArg
from tests.device.clockwork import GAP, GRAPH_LAUNCH, LAUNCH, MS, busy, new_event, new_stream, settled

Step = tuple[str, int, int, int]  # operation, stream, event, ns
STREAMS, EVENTS = 3, 3


def capture(program: list[Step]) -> Any:
    """Capture `program`; stream 0 is the capture's own. Streams that joined it are waited for at the end."""
    graph = torch.revati.CUDAGraph()  # type: ignore[attr-defined]
    with torch.revati.graph(graph):  # type: ignore[attr-defined]
        streams = [torch.revati.current_stream(), *(new_stream() for _ in range(STREAMS - 1))]  # type: ignore[attr-defined]
        events = [new_event() for _ in range(EVENTS)]
        recorded: set[int] = set()
        inside = {0}
        for op, stream, event, ns in program:
            if op == "wait" and event in recorded:
                streams[stream].wait_event(events[event])
                inside.add(stream)
            elif stream in inside and op == "busy":
                busy(streams[stream], ns)
            elif stream in inside and op == "record":
                events[event].record(streams[stream])
                recorded.add(event)
        for stream in inside - {0}:
            last = new_event()
            last.record(streams[stream])
            streams[0].wait_event(last)
    return graph


def simulated(program: list[Step]) -> int:
    """Duration of a replay: one tail a stream, from the start of the graph."""
    tail: dict[int, int] = {0: 0}
    marks: dict[int, int] = {}
    for op, stream, event, ns in program:
        if op == "wait" and event in marks:
            tail[stream] = max(tail.get(stream, 0), marks[event])
        elif stream in tail and op == "busy":
            tail[stream] += ns + GAP
        elif stream in tail and op == "record":
            marks[event] = tail[stream]
    return max(tail.values())


def replayed(graph: Any) -> int:
    """What one replay on an idle GPU takes, from its launch to its end."""
    start = settled()
    graph.replay()
    return settled() - start - GRAPH_LAUNCH


FORK: list[Step] = [("record", 0, 0, 0), ("wait", 1, 0, 0)]
TABLE: dict[str, tuple[list[Step], int]] = {
    "nothing": ([], 0),
    "one stream": ([("busy", 0, 0, 2 * MS), ("busy", 0, 0, 3 * MS)], 5 * MS + 2 * GAP),
    "a fork whose branch is shorter": ([*FORK, ("busy", 0, 0, 5 * MS), ("busy", 1, 0, 2 * MS)], 5 * MS + GAP),
    "a fork whose branch is longer": ([*FORK, ("busy", 0, 0, 2 * MS), ("busy", 1, 0, 5 * MS)], 5 * MS + GAP),
    "a fork after the first kernel": (
        [("busy", 0, 0, 4 * MS), *FORK, ("busy", 0, 0, 1 * MS), ("busy", 1, 0, 2 * MS)],
        6 * MS + 2 * GAP,
    ),
    "a join in the middle": (
        [
            *FORK,
            ("busy", 1, 0, 7 * MS),
            ("record", 1, 1, 0),
            ("busy", 0, 0, 3 * MS),
            ("wait", 0, 1, 0),
            ("busy", 0, 0, 1 * MS),
        ],
        8 * MS + 2 * GAP,
    ),
    "work after the event is not waited for": (
        [
            *FORK,
            ("busy", 1, 0, 2 * MS),
            ("record", 1, 1, 0),
            ("busy", 1, 0, 6 * MS),
            ("wait", 0, 1, 0),
            ("busy", 0, 0, 3 * MS),
        ],
        8 * MS + 2 * GAP,
    ),
    "three streams in a row": (
        [
            *FORK,
            ("busy", 1, 0, 2 * MS),
            ("record", 1, 1, 0),
            ("wait", 2, 1, 0),
            ("busy", 2, 0, 3 * MS),
            ("record", 2, 2, 0),
            ("wait", 0, 2, 0),
            ("busy", 0, 0, 4 * MS),
        ],
        9 * MS + 3 * GAP,
    ),
    "a diamond": (
        [
            ("busy", 0, 0, 1 * MS),
            ("record", 0, 0, 0),
            ("wait", 1, 0, 0),
            ("wait", 2, 0, 0),
            ("busy", 1, 0, 2 * MS),
            ("busy", 2, 0, 5 * MS),
            ("record", 1, 1, 0),
            ("record", 2, 2, 0),
            ("wait", 0, 1, 0),
            ("wait", 0, 2, 0),
            ("busy", 0, 0, 1 * MS),
        ],
        7 * MS + 3 * GAP,
    ),
}


@pytest.mark.parametrize("name", TABLE)
def test_a_replay_takes_what_was_computed_by_hand(name: str) -> None:
    program, expected_ns = TABLE[name]
    assert simulated(program) == expected_ns
    assert replayed(capture(program)) == expected_ns


def test_a_replay_on_another_stream_waits_and_is_waited_for() -> None:
    graph, a, b = capture([("busy", 0, 0, 4 * MS)]), new_stream(), new_stream()
    before, after, start = new_event(), new_event(), settled()
    busy(a, 10 * MS)
    before.record(a)
    b.wait_event(before)
    with torch.revati.stream(b):  # type: ignore[attr-defined]
        graph.replay()
    after.record(b)
    a.wait_event(after)
    busy(a, 1 * MS)
    a.synchronize()
    assert _C.now_ns() - start == LAUNCH + 15 * MS + 3 * GAP


PROGRAMS = st.lists(
    st.tuples(
        st.sampled_from(["busy", "record", "wait"]),
        st.integers(0, STREAMS - 1),
        st.integers(0, EVENTS - 1),
        st.integers(0, 10 * MS),
    ),
    max_size=40,
)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(program=PROGRAMS)
def test_random_captures_replay_as_the_simulator_says(program: list[Step]) -> None:
    graph = capture(program)
    assert replayed(graph) == simulated(program)
    assert replayed(graph) == simulated(program)


def test_a_capture_that_leaves_a_stream_behind_is_refused() -> None:
    graph, side, fork = torch.revati.CUDAGraph(), new_stream(), new_event()  # type: ignore[attr-defined]
    with pytest.raises(RuntimeError, match="unjoined work"), torch.revati.graph(graph):  # type: ignore[attr-defined]
        fork.record()
        side.wait_event(fork)
        busy(side, MS)
    with pytest.raises(RuntimeError, match="never captured"):
        graph.replay()


def test_a_graph_takes_driver_memory_and_gives_it_back() -> None:
    torch.revati.synchronize()  # type: ignore[attr-defined]
    free = torch.revati.mem_get_info()[0]  # type: ignore[attr-defined]
    graph = capture([("busy", 0, 0, MS)] * 100)
    assert free - torch.revati.mem_get_info()[0] == 100 * 20480  # type: ignore[attr-defined]
    graph.reset()
    assert torch.revati.mem_get_info()[0] == free  # type: ignore[attr-defined]


# ---------------------------------------------------------------- values and prices at replay
def test_live_values_are_computed_again_at_replay() -> None:
    lengths = torch.tensor([1, 2, 3], device="revati:0")
    graph = torch.revati.CUDAGraph()  # type: ignore[attr-defined]
    with torch.revati.graph(graph):  # type: ignore[attr-defined]
        total = lengths.cumsum(0)
    lengths.copy_(torch.tensor([10, 20, 30]))
    graph.replay()
    assert total.tolist() == [10, 30, 60]


def test_synchronising_a_capturing_stream_is_refused() -> None:
    graph = torch.revati.CUDAGraph()  # type: ignore[attr-defined]
    with torch.revati.graph(graph), pytest.raises(RuntimeError, match="capturing"):  # type: ignore[attr-defined]
        torch.zeros(1, device="revati:0").item()


BATCH, HEADS, KV_HEADS, DIM, BLOCK = 4, 32, 8, 128, 16
NAMES = [
    "query_ptr",
    "key_cache_ptr",
    "value_cache_ptr",
    "block_tables_ptr",
    "seq_lens_ptr",
    "query_start_len_ptr",
]


def attention(lengths: torch.Tensor, order: int = 1) -> Callable[[], None]:
    """A decode step of vLLM's Triton attention over `lengths` keys, as its launch is recorded.

    order: 1, or -1 for arguments from the last to the first.
    """
    device = lengths.device
    cache = torch.empty(1 << 16, BLOCK, KV_HEADS, DIM, dtype=torch.bfloat16, device=device)
    arguments = (
        torch.empty(BATCH, HEADS, DIM, dtype=torch.bfloat16, device=device),
        cache,
        cache,
        torch.zeros(BATCH, 8192, dtype=torch.int32, device=device),
        lengths,
        torch.arange(BATCH + 1, dtype=torch.int32, device=device),
    )
    names, values = NAMES[::order], arguments[::order]
    return lambda: _C.launch("triton::kernel_unified_attention", names, *values, device=0)


def predicted(lengths: list[int]) -> float:
    """The latency layer's own answer for this step."""

    def tensor(*shape: int, dtype: str = "bfloat16", values: Any = None) -> TensorArg:
        return TensorArg(shape, torch.empty(shape, device="meta").stride(), dtype, values)

    cache = tensor(1 << 16, BLOCK, KV_HEADS, DIM)
    arguments = (
        tensor(BATCH, HEADS, DIM),
        cache,
        cache,
        tensor(BATCH, 8192, dtype="int32"),
        tensor(BATCH, dtype="int32", values=torch.tensor(lengths).numpy()),
        tensor(BATCH + 1, dtype="int32", values=torch.arange(BATCH + 1).numpy()),
    )
    record = OpRecord("triton::kernel_unified_attention", arguments, (), tuple(NAMES))
    return Predictor("h100_sxm", mode="roofline").predict(record).duration_ns


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    batches=st.lists(
        st.lists(st.integers(1, 100_000), min_size=BATCH, max_size=BATCH), min_size=2, max_size=4
    )
)
def test_attention_in_a_graph_is_priced_by_the_lengths_of_each_replay(batches: list[list[int]]) -> None:
    lengths = torch.ones(BATCH, dtype=torch.int32, device="revati:0")
    launch = attention(lengths)
    graph = torch.revati.CUDAGraph()  # type: ignore[attr-defined]
    with torch.revati.graph(graph):  # type: ignore[attr-defined]
        _C.occupy(MS, 0)
        launch()
    for batch in batches:
        lengths.copy_(torch.tensor(batch, dtype=torch.int32))
        assert replayed(graph) - MS - 2 * GAP == pytest.approx(predicted(batch), rel=0.03)


def test_a_replay_asks_once_for_all_layers() -> None:
    lengths = torch.ones(BATCH, dtype=torch.int32, device="revati:0")
    launch = attention(lengths)
    graph = torch.revati.CUDAGraph()  # type: ignore[attr-defined]
    with torch.revati.graph(graph):  # type: ignore[attr-defined]
        for _ in range(32):
            launch()
    before = _C.cache_counters()["live_price_misses"]
    lengths.fill_(77_777)
    graph.replay()
    assert _C.cache_counters()["live_price_misses"] - before == 1


def test_one_kernel_may_be_launched_with_other_lists_of_arguments() -> None:
    lengths = torch.ones(BATCH, dtype=torch.int32, device="revati:0")
    graphs = [torch.revati.CUDAGraph() for _ in range(2)]  # type: ignore[attr-defined]
    for graph, order in zip(graphs, (1, -1), strict=True):
        launch = attention(lengths, order)
        with torch.revati.graph(graph):  # type: ignore[attr-defined]
            launch()
    lengths.fill_(77_777)
    assert replayed(graphs[0]) == replayed(graphs[1])


# ---------------------------------------------------------------- torch's device-independent face
def test_torch_accelerator_knows_the_device() -> None:
    assert torch.accelerator.is_available()
    assert torch.accelerator.device_count() == 2
    assert torch.accelerator.current_accelerator() == torch.device("revati")
    assert torch.bfloat16 in torch.accelerator.get_device_capability()["supported_dtypes"]
    with torch.accelerator.device_index(1):
        assert torch.accelerator.current_device_index() == 1
        x = torch.empty(1 << 20, dtype=torch.uint8, device="revati")
        assert x.get_device() == 1
        assert torch.accelerator.memory_allocated() >= 1 << 20
    assert torch.accelerator.current_device_index() == 0
    assert torch.accelerator.get_memory_info()[1] == torch.revati.mem_get_info()[1]  # type: ignore[attr-defined]


def test_torch_stream_and_event_are_timed() -> None:
    stream, start = torch.Stream(), settled()
    begin, end = torch.Event(enable_timing=True), torch.Event(enable_timing=True)
    with stream:
        assert torch.accelerator.current_stream() == stream
        begin.record()
        _C.occupy(3 * MS, 0)
        end.record()
    assert not stream.query()
    end.synchronize()
    assert stream.query()
    assert begin.elapsed_time(end) == pytest.approx((LAUNCH + 3 * MS + GAP) / 1e6)
    torch.accelerator.synchronize()
    assert _C.now_ns() - start > 3 * MS


def test_torch_accelerator_captures_and_replays() -> None:
    x = torch.ones(8, device="revati")
    graph = torch.accelerator.Graph()
    with torch.Stream(), graph:
        y = x * 3
    x.fill_(2)
    graph.replay()
    assert y.tolist() == [6.0] * 8


def test_graphed_callables_run_forward_and_backward_as_graphs() -> None:
    torch.manual_seed(0)
    layer = torch.nn.Linear(4, 4).to("revati:0")
    x = torch.randn(2, 4, device="revati:0", requires_grad=True)
    expected = torch.autograd.grad(layer(x).square().sum(), (x, layer.weight))
    graphed = torch.revati.make_graphed_callables(
        layer, (torch.zeros(2, 4, device="revati:0", requires_grad=True),)
    )  # type: ignore[attr-defined]
    before = _C.launches()
    out = graphed(x)
    assert _C.launches() - before <= 2  # the copy of the input; a replay is no kernel launch
    got = torch.autograd.grad(out.square().sum(), (x, layer.weight))
    for mine, theirs in zip(got, expected, strict=True):
        assert torch.allclose(mine.cpu(), theirs.cpu())
