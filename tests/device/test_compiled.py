"""Compiled graphs on the virtual GPU: what fuses, what a call launches, and that repeated calls cost no
Python.
"""

from __future__ import annotations

from tests.device.test_cuda_identity import passes

TRACED = """
    import torch
    from revati import _C
    from revati.cuda import compiled

    def trace(function, *example):
        found = []
        def keep(graph, inputs):
            found.append(graph)
            return graph
        torch._dynamo.mark_dynamic(example[0], 0)
        torch.compile(function, backend=keep)(*example)
        (graph,) = found
        places = [n for n in graph.graph.nodes if n.op == "placeholder"]
        return compiled.compile_graph(graph), places

    def launched(call):
        _C.reset_stats()
        result, found = call(), {}
        for name, _family, _confidence, _shapes, count, _ns in _C.op_stats():
            found[name] = found.get(name, 0) + count
        return result, found

    def inputs(places, x, *rest):
        given = iter((x, *rest))
        sizes = (int, torch.SymInt)
        return [x.shape[0] if isinstance(n.meta["example_value"], sizes) else next(given) for n in places]
"""


def test_norm_activation_and_residual_fuse_and_matrix_products_do_not() -> None:
    passes(
        TRACED
        + """
    def block(x, w1, w2, g):
        y = x * torch.rsqrt(x.float().pow(2).mean(-1, keepdim=True) + 1e-6).to(x.dtype) * g
        a, b = (y @ w1).chunk(2, -1)
        return x + (torch.nn.functional.silu(a) * b) @ w2

    shapes = (512, 2048), (1024, 512), (512,)
    weights = [torch.empty(*s, dtype=torch.bfloat16, device="cuda") for s in shapes]
    x = torch.empty(8, 512, dtype=torch.bfloat16, device="cuda")
    piece, places = trace(block, x, *weights)
    by_shape = {tuple(w.shape): w for w in weights}

    def arguments(x):
        found = []
        for node in places:
            value = node.meta["example_value"]
            if not isinstance(value, torch.Tensor):
                found.append(x.shape[0])
            else:
                static = tuple(int(s) if isinstance(s, int) else -1 for s in value.shape)
                found.append(by_shape.get(static, x))
        return found

    (result,), first = launched(lambda: piece(*arguments(x)))
    kernels = [n for n in first if n.startswith("inductor::")]
    assert len(kernels) == 3 and sum(first[n] for n in kernels) == 3, first
    assert sum(c for n, c in first.items() if n.startswith("aten::")) == 2, first
    assert result.shape == (8, 512) and result.dtype == torch.bfloat16 and result.is_cuda
    assert not _C.is_live(result)

    for rows in (24, 8):  # sizes never seen, and one seen before: the same launches
        y = torch.empty(rows, 512, dtype=torch.bfloat16, device="cuda")
        (result,), again = launched(lambda: piece(*arguments(y)))
        assert again == first, (first, again)
        assert result.shape == (rows, 512)
    piece.graph.forward = None  # the code is not needed any more
    piece(*arguments(y))
    """
    )


def test_a_view_of_an_argument_stays_one() -> None:
    passes(
        TRACED
        + """
    piece, places = trace(lambda x: (x[:, :4], x + 1), torch.empty(8, 16, device="cuda").to(torch.bfloat16))
    for rows in (8, 12, 12):
        x = torch.empty(rows, 16, dtype=torch.bfloat16, device="cuda")
        view, fresh = piece(*inputs(places, x))
        assert view.untyped_storage().data_ptr() == x.untyped_storage().data_ptr() and view.shape == (rows, 4)
        assert fresh.untyped_storage().data_ptr() != x.untyped_storage().data_ptr()
    """
    )


def test_results_with_values_run_the_code_every_time() -> None:
    passes(
        TRACED
        + """
    piece, places = trace(lambda x: x * 2, torch.arange(8, device="cuda"))
    for start in (0, 5):
        x = torch.arange(start, start + 8, device="cuda")
        assert piece(*inputs(places, x))[0].tolist() == [2 * v for v in range(start, start + 8)]
    assert piece(*inputs(places, torch.arange(5, device="cuda")))[0].tolist() == [0, 2, 4, 6, 8]
    """
    )


def test_an_operator_that_computes_values_in_a_capture_leaves_the_rest_fused() -> None:
    """The router of few tokens chooses experts: the second layer of a graph ran every operator by itself."""
    passes(
        TRACED
        + """
    @torch.library.custom_op("revati_test::route", mutates_args=())
    def route(x: torch.Tensor) -> torch.Tensor:
        chosen = torch.topk(x, 8).indices + 1
        return torch.empty_like(x)

    route.register_fake(torch.empty_like)
    many, few = (torch.empty(rows, 64, dtype=torch.bfloat16, device="cuda") for rows in (16384, 4))
    piece, places = trace(lambda x: torch.ops.revati_test.route(x * 2 + 1) * 3 + 1, many)
    _, first = launched(lambda: piece(*inputs(places, many)))
    fused = {name: count for name, count in first.items() if name.startswith("inductor::")}
    assert sum(fused.values()) == 2 and not {"aten::mul", "aten::mul.Tensor"} & set(first), first

    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _layer in range(3):
            piece(*inputs(places, few))
    _, replayed = launched(graph.replay)
    assert {name: replayed.get(name) for name in fused} == {name: 3 * c for name, c in fused.items()}
    assert set(replayed) == set(first), replayed
    for _again in range(2):  # outside, nothing is computed
        _, outside = launched(lambda: piece(*inputs(places, few)))
        assert outside == first, outside
    """
    )


def test_an_operator_that_asks_whether_it_is_captured_is_asked_in_a_capture() -> None:
    """As vLLM's all-reduce, which before a capture only allocates its result."""
    passes(
        TRACED
        + """
    graphs = []

    @torch.library.custom_op("revati_test::reduce", mutates_args=())
    def reduce(x: torch.Tensor) -> torch.Tensor:
        if not graphs or torch.cuda.is_current_stream_capturing():
            torch.bmm(x[None], weight[None])
        return torch.empty_like(x)

    reduce.register_fake(torch.empty_like)
    weight = torch.empty(512, 512, dtype=torch.bfloat16, device="cuda")
    many, few = (torch.empty(rows, 512, dtype=torch.bfloat16, device="cuda") for rows in (512, 8))
    piece, places = trace(lambda x, w: torch.ops.revati_test.reduce(x @ w) + 1, many, weight)
    _, found = launched(lambda: piece(*inputs(places, many, weight)))
    assert found["aten::mm"] == found["aten::bmm"] == 1, found
    graphs.append(torch.cuda.CUDAGraph())
    for _warm_up in range(2):
        _, found = launched(lambda: piece(*inputs(places, few, weight)))
        assert found["aten::mm"] == 1 and "aten::bmm" not in found, found
    with torch.cuda.graph(graphs[0]):
        piece(*inputs(places, few, weight))
    _, found = launched(graphs[0].replay)
    assert found["aten::mm"] == found["aten::bmm"] == 1, found
    """
    )


def test_temporaries_inside_a_kernel_take_no_memory() -> None:
    passes(
        TRACED
        + """
    def chain(x):
        for _ in range(8):
            x = torch.sin(x.float()).bfloat16()
        return x

    size = 64 << 20
    x = torch.empty(size // 2, 1, dtype=torch.bfloat16, device="cuda")
    piece, places = trace(chain, torch.empty(8, 1, dtype=torch.bfloat16, device="cuda"))
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    piece(*inputs(places, x))
    assert torch.cuda.max_memory_allocated() - before <= size + (1 << 20)
    """
    )


def test_tuning_holds_a_second_embedding_table_for_a_moment() -> None:
    """As inductor's tuning at compile time does; vLLM's memory profiling sees the peak."""
    passes(
        TRACED
        + """
    def first_layer(ids, table, gain, weight):
        x = torch.nn.functional.embedding(ids, table)
        y = x * torch.rsqrt(x.float().pow(2).mean(-1, keepdim=True) + 1e-6).to(x.dtype) * gain
        return x, y @ weight

    table = torch.empty(32000, 1024, dtype=torch.bfloat16, device="cuda")
    gain = torch.empty(1024, dtype=torch.bfloat16, device="cuda")
    weight = torch.empty(1024, 4096, dtype=torch.bfloat16, device="cuda")
    known = {tuple(str(size) for size in t.shape): t for t in (table, gain, weight)}
    ids = torch.zeros(64, dtype=torch.int64, device="cuda")
    plain, places = trace(first_layer, ids, table, gain, weight)

    def peak(piece, ids):
        arguments = []
        for node in places:
            value = node.meta["example_value"]
            shape = tuple(str(size) for size in value.shape) if isinstance(value, torch.Tensor) else None
            arguments.append(ids.shape[0] if shape is None else known.get(shape, ids))
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        piece(*arguments)
        assert torch.cuda.memory_allocated() == before
        return torch.cuda.max_memory_allocated() - before

    table_bytes = table.numel() * 2
    assert peak(plain, ids) < table_bytes
    compiled._plans.clear()
    tuned = compiled.compile_graph(plain.graph, tunes=True)
    found = peak(tuned, ids)
    assert table_bytes <= found <= 1.05 * table_bytes, (found, table_bytes)
    assert torch.cuda.memory_reserved() < 2 * table_bytes
    assert peak(tuned, ids) < table_bytes / 10  # compiled once
    """
    )
