"""A graph as a compiler would have compiled it, on the virtual GPU: fused kernels, few launches, no Python
in between.

The first call of a structure runs its code once, unseen by the clock, to learn what its nodes launch
(`fusion`). A call with new sizes prices single operators anew and fused kernels by the bytes they move,
by the graph's own symbolic shapes. A call that was seen before costs one lookup (`_C.Piece`). Pieces of
the same structure (the layers of a model) share all of this. Host time is what the compiled call would
cost (`compiled_call_ns`, and each launch).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch
from torch import fx
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from revati import _C
from revati.cuda.fusion import Kernel, Operator, Root, Step, Watcher, plan_kernels
from revati.cuda.tuning import example_bytes, hold

_plans: dict[str, Plan] = {}
_DIGITS = re.compile(r"\d+")


def compile_graph(graph: fx.GraphModule, *, tunes: bool = False) -> Callable[..., Any]:
    """A callable that stands for `graph` after compilation: same arguments, same structure of results.

    `tunes`: the compiler runs its kernels on example arguments first, which take device memory (`tuning`).
    """
    for position, node in enumerate(node for node in graph.graph.nodes if node.op == "placeholder"):
        node.meta["revati_position"] = position
    key = structure_of(graph)
    if key is None:
        return CompiledPiece(graph, Plan(tunes))
    return CompiledPiece(graph, _plans.setdefault(key, Plan(tunes)))


class CompiledPiece:
    """One graph with the plan that it shares with all graphs of its structure."""

    def __init__(self, graph: fx.GraphModule, plan: Plan) -> None:
        self.graph = graph
        self._plan = plan
        (output,) = [node for node in graph.graph.nodes if node.op == "output"]
        leaves, self._spec = tree_flatten(output.args[0])
        self._constants = None if all(isinstance(leaf, fx.Node) for leaf in leaves) else leaves

    def __call__(self, *args: Any) -> Any:
        """Launch what the compiled graph would launch; results are phantoms of the right shapes."""
        results = self._plan.piece.call(*args)
        if results is None and not self._plan.values_inside:
            return self.graph(*args)
        if results is None or results is False:
            results = self._plan.first(self.graph, args)
        if self._constants is None:
            return tree_unflatten(results, self._spec)
        given = iter(results)
        return tree_unflatten(
            [next(given) if isinstance(leaf, fx.Node) else leaf for leaf in self._constants], self._spec
        )


class Plan:
    """What is known of one structure."""

    def __init__(self, tunes: bool = False) -> None:
        self._tunes = tunes
        self.piece = _C.Piece()
        self.values_inside = False
        """Whether an operator of a known plan computes values (expert ids of few tokens, in a capture): such
        a call cannot be repeated from what it launched, and is priced again each time, fused as ever."""
        self._steps: list[Step] | None = None
        self._shapes: SymbolicShapes | None = None
        self._nodes: list[fx.Node] = []
        self._lifetimes: dict[Root, tuple[int, int | None]] = {}
        self._roots: dict[fx.Node, list[Root]] = {}

    def first(self, graph: fx.GraphModule, args: tuple[Any, ...]) -> list[Any]:
        """The first call with these sizes; `piece` knows it afterwards."""
        if self._steps is None or self._shapes is None:
            return self._learn(graph, args)
        device = torch.cuda.current_device()
        recorder = _C.Recorder()
        recorder.begin()
        try:
            sizes = self._shapes.evaluate(args)
            order = [number for step in self._steps for number in self._price(step, sizes, args, recorder)]
            results = self._results(sizes, args)
        finally:
            recorder.end()
        self.values_inside = self.values_inside or not recorder.repeatable
        self.piece.keep(args, results, recorder, order, self._scratch_bytes(sizes))
        _C.Piece.play(recorder, order, device)
        return results

    def _learn(self, graph: fx.GraphModule, args: tuple[Any, ...]) -> list[Any]:
        device = torch.cuda.current_device()
        recorder = _C.Recorder()
        before = _C.peaks(device)
        recorder.begin()
        try:
            watcher = Watcher(graph, recorder)
            value = watcher.run(*args)
            steps = plan_kernels(watcher)
            nodes = list(graph.graph.nodes)
            shapes = SymbolicShapes.of(nodes)
            sizes = shapes.evaluate(args) if shapes is not None else None
            order: list[int] = []
            for step in steps:
                if isinstance(step, Operator):
                    order += [launch.number for launch in step.launches]
                elif sizes is not None:
                    order += self._price(step, sizes, args, recorder)
                else:
                    order += [launch.number for operator in step.operators for launch in operator.launches]
        finally:
            recorder.end()
            _C.restore_peaks(device, before)
        (output,) = [node for node in nodes if node.op == "output"]
        if self._tunes and sizes is not None:
            made = {root for node in output.all_input_nodes for root in watcher.roots[node]}
            results_bytes = sum(sizes.root_bytes(root) for root in made if root[0].op != "placeholder")
            hold(example_bytes(steps, sizes.root_bytes) - results_bytes)  # results are not there yet
        results, holds_values = [], False
        for leaf, node in zip(tree_flatten(value)[0], tree_flatten(output.args[0])[0], strict=True):
            if isinstance(node, fx.Node):
                results.append(leaf)
                _forget_unwritten(node, leaf, watcher)
                own = all(root[0].op != "placeholder" for root in watcher.roots[node])
                holds_values = holds_values or (own and isinstance(leaf, torch.Tensor) and _C.is_live(leaf))
        scratch_bytes = 0
        if sizes is not None and recorder.repeatable and not holds_values:  # else each size runs the code
            self._steps, self._shapes, self._nodes = steps, shapes, nodes
            self._roots = watcher.roots
            self._lifetimes = _lifetimes(steps, output, watcher)
            scratch_bytes = self._scratch_bytes(sizes)
        self.piece.keep(args, results, recorder, order, scratch_bytes)
        _C.Piece.play(recorder, order, device)
        return results

    def _price(self, step: Step, sizes: Sizes, args: tuple[Any, ...], recorder: Any) -> list[int]:
        """Launch a step into the recorder; the numbers of its launches."""
        before = recorder.count
        if isinstance(step, Kernel):
            written = self._written(step, sizes)
            read = 0
            for source, indexed in step.reads:  # of a table no more is read than what comes out
                size = sizes.bytes_of(source)
                read += min(size, written) if indexed else size
            _C.launch(
                step.name,
                ["family", "read_bytes", "write_bytes"],
                step.family,
                read,
                written,
                device=torch.cuda.current_device(),
            )
        else:
            node = step.node
            values = tree_map(
                lambda leaf: sizes.value(leaf, args) if isinstance(leaf, fx.Node) else leaf,
                (node.args, node.kwargs),
            )
            if node.op == "call_method":
                getattr(values[0][0], str(node.target))(*values[0][1:], **values[1])
            else:
                node.target(*values[0], **values[1])  # type: ignore[operator]
        return list(range(before, recorder.count))

    def _written(self, kernel: Kernel, sizes: Sizes) -> int:
        return sum(sizes.root_bytes(root) for root in kernel.writes)

    def _results(self, sizes: Sizes, args: tuple[Any, ...]) -> list[Any]:
        (output,) = [node for node in self._nodes if node.op == "output"]
        made: dict[Root, Any] = {}
        return [
            sizes.result(leaf, args, self._roots, made)
            for leaf in tree_flatten(output.args[0])[0]
            if isinstance(leaf, fx.Node)
        ]

    def _scratch_bytes(self, sizes: Sizes) -> int:
        """Most memory that lives at once beside the results: buffers between kernels."""
        change: dict[int, int] = {}
        for root, (begin, end) in self._lifetimes.items():
            size = sizes.root_bytes(root)
            change[begin] = change.get(begin, 0) + size
            if end is not None:  # else a result: it stays
                change[end + 1] = change.get(end + 1, 0) - size
        peak = now = 0
        for step in sorted(change):
            now += change[step]
            peak = max(peak, now)
        return peak - now


class SymbolicShapes:
    """Shapes of all nodes of a graph as functions of its symbolic sizes."""

    def __init__(
        self, symbols: dict[Any, tuple[int, int | None]], evaluate: Callable[..., Any], tensors: Any
    ) -> None:
        self._symbols = symbols  # symbol -> (argument, dimension; None: the argument itself)
        self._evaluate = evaluate
        self._tensors = (
            tensors  # node -> (dtype, rank, first of its expressions) or the place of a plain value
        )

    @classmethod
    def of(cls, nodes: list[fx.Node]) -> SymbolicShapes | None:
        """None if some node says nothing of its shape, or has one that depends on values."""
        import sympy
        from torch.utils._sympy import functions

        symbols: dict[Any, tuple[int, int | None]] = {}
        places = [node for node in nodes if node.op == "placeholder"]
        for index, node in enumerate(places):
            value = node.meta.get("example_value")
            if isinstance(value, torch.SymInt):
                symbols.setdefault(value.node.expr, (index, None))
            elif isinstance(value, torch.Tensor):
                for dimension, size in enumerate(value.shape):
                    if isinstance(size, torch.SymInt) and isinstance(size.node.expr, sympy.Symbol):
                        symbols.setdefault(size.node.expr, (index, dimension))
        expressions: list[Any] = []
        tensors: dict[fx.Node, Any] = {}

        def note(value: Any) -> Any:
            if isinstance(value, torch.Tensor):
                at = len(expressions)
                expressions.extend(
                    _expression(x) for x in (*value.shape, *value.stride(), value.storage_offset())
                )
                return (value.dtype, value.dim(), at)
            if isinstance(value, (torch.SymInt, int)) and not isinstance(value, bool):
                expressions.append(_expression(value))
                return len(expressions) - 1
            if isinstance(value, (tuple, list)):
                return [note(item) for item in value]
            return None

        for node in nodes:
            if node.op == "output":
                continue
            if "example_value" not in node.meta:
                if node.op in ("call_function", "call_method") and node.users:
                    return None
                continue
            tensors[node] = note(node.meta["example_value"])
        free = {
            symbol
            for expression in expressions
            if hasattr(expression, "free_symbols")
            for symbol in expression.free_symbols
        }
        plain = [s for s in symbols if isinstance(s, sympy.Symbol)]
        if not free <= set(plain):
            return None
        table = {
            name: getattr(functions, name)
            for name in ("FloorDiv", "Mod", "ModularIndexing", "Max", "Min")
            if hasattr(functions, name)
        }
        table |= {"FloorDiv": lambda a, b: a // b, "Mod": lambda a, b: a % b, "PythonMod": lambda a, b: a % b}
        evaluate = sympy.lambdify(plain, expressions, modules=[table, "math"])
        return cls({s: symbols[s] for s in plain}, evaluate, tensors)

    def evaluate(self, args: tuple[Any, ...]) -> Sizes:
        """All shapes for these arguments."""
        given = [
            int(args[index]) if dimension is None else int(args[index].shape[dimension])
            for index, dimension in self._symbols.values()
        ]
        return Sizes(self._tensors, self._evaluate(*given))


class Sizes:
    """Shapes of all nodes at one call."""

    def __init__(self, tensors: Any, numbers: list[int]) -> None:
        self._tensors = tensors
        self._numbers = numbers

    def _shape(self, place: Any) -> tuple[list[int], list[int], int]:
        _dtype, rank, at = place
        numbers = [int(x) for x in self._numbers[at : at + 2 * rank + 1]]
        return numbers[:rank], numbers[rank : 2 * rank], numbers[2 * rank]

    def _bytes(self, place: Any) -> int:
        if isinstance(place, list):
            return sum(self._bytes(item) for item in place)
        if not isinstance(place, tuple):
            return 0
        shape, stride, _ = self._shape(place)
        count = 1
        for size, step in zip(shape, stride, strict=True):
            count *= size if step else min(size, 1)
        return count * int(place[0].itemsize)

    def bytes_of(self, node: fx.Node) -> int:
        """Bytes that reading a node's value once moves; expanded dimensions count once."""
        return self._bytes(self._tensors.get(node))

    def root_bytes(self, root: Root) -> int:
        """Bytes of a storage when it was made."""
        place = self._tensors.get(root[0])
        return self._bytes(place[root[1]] if isinstance(place, list) else place)

    def value(self, node: fx.Node, args: tuple[Any, ...]) -> Any:
        """An argument as it is, or a stand-in of the right shape for what was computed on the way."""
        if node.op == "placeholder":
            return args[_position(node)]
        return self._made(self._tensors.get(node))

    def _made(self, place: Any) -> Any:
        if isinstance(place, list):
            return [self._made(item) for item in place]
        if isinstance(place, tuple):
            shape, stride, _ = self._shape(place)
            made = torch.empty_strided(shape, stride, dtype=place[0], device=torch.cuda.current_device())
            _C.mark_phantom(made)
            return made
        return None if place is None else int(self._numbers[place])

    def result(
        self, node: fx.Node, args: tuple[Any, ...], roots: dict[fx.Node, list[Root]], made: dict[Root, Any]
    ) -> Any:
        """A result of the graph: an argument, a view of one, or a new tensor that results may share."""
        if node.op == "placeholder":
            return args[_position(node)]
        place = self._tensors.get(node)
        if not isinstance(place, tuple):
            return self._made(place)
        (root,) = roots[node]
        shape, stride, offset = self._shape(place)
        if root[0].op == "placeholder":
            base = args[_position(root[0])]
            _, _, base_offset = self._shape(self._tensors[root[0]])
            return base.as_strided(shape, stride, base.storage_offset() + offset - base_offset)
        if root not in made:
            home = self._tensors[root[0]]
            made[root] = self._made(home[root[1]] if isinstance(home, list) else home)
        if root == (node, 0):
            return made[root]
        return made[root].as_strided(shape, stride, offset)


def _expression(size: Any) -> Any:
    return size.node.expr if isinstance(size, torch.SymInt) else int(size)


def _position(placeholder: fx.Node) -> int:
    position: int = placeholder.meta["revati_position"]
    return position


def _forget_unwritten(node: fx.Node, result: Any, watcher: Watcher) -> None:
    """A buffer that the graph returns as it was allocated holds no values, though it is not phantom yet."""
    if not isinstance(result, torch.Tensor) or not result.is_cuda:
        return
    written = {root for operator in watcher.operators for root in operator.writes}
    if all(
        root not in written and root[0].op not in ("placeholder", "get_attr") for root in watcher.roots[node]
    ):
        _C.mark_phantom(result)


def _lifetimes(steps: list[Step], output: fx.Node, watcher: Watcher) -> dict[Root, tuple[int, int | None]]:
    """First and last step at which each storage that is really written exists; None: it is a result."""
    spans: dict[Root, tuple[int, int | None]] = {}
    for number, step in enumerate(steps):
        operators = step.operators if isinstance(step, Kernel) else [step]
        for root in step.writes:
            if root[0].op not in ("placeholder", "get_attr"):
                spans.setdefault(root, (number, number))
        for operator in operators:
            for _, root in operator.reads:
                if root in spans:
                    spans[root] = (spans[root][0], number)
    for node in output.all_input_nodes:
        for root in watcher.roots[node]:
            if root in spans:
                spans[root] = (spans[root][0], None)
    return spans


def structure_of(graph: fx.GraphModule) -> str | None:
    """The graph without its names: equal for graphs that launch the same. None: it cannot share a plan."""
    numbers: dict[fx.Node, int] = {}
    lines: list[str] = []
    for node in graph.graph.nodes:
        numbers[node] = len(numbers)
        if node.op == "placeholder":
            lines.append(f"in {_text(node.meta.get('example_value'))}")
            continue
        if node.op in ("get_attr", "call_module"):
            return None
        target = node.target if isinstance(node.target, str) else _qualified(node.target)
        words = tree_map(
            lambda leaf: (
                f"%{numbers[leaf]}"
                if isinstance(leaf, fx.Node)
                else _DIGITS.sub("#", leaf)
                if isinstance(leaf, str)
                else leaf
            ),
            (node.args, node.kwargs),
        )
        lines.append(f"{node.op} {target} {words}")
    return "\n".join(lines)


def _text(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return (
            f"{value.dtype} {[str(s) for s in value.shape]} {[str(s) for s in value.stride()]} {value.device}"
        )
    if isinstance(value, (int, float, torch.SymInt, torch.SymFloat, type(None))):
        return f"{type(value).__name__} {value}"
    return type(value).__name__  # an opaque object, the name of a layer: it prints as its address


def _qualified(target: Any) -> str:
    if isinstance(target, (torch._ops.OpOverload, torch._ops.OpOverloadPacket)):
        return str(target)
    return f"{getattr(target, '__module__', '')}.{getattr(target, '__qualname__', repr(target))}"
