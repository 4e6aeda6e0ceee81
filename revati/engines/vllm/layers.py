"""Equal layers of a compiled model run twice a step; the others are repeated.

vLLM calls a model outside full CUDA graphs piece by piece: a compiled piece, an attention, the next piece.
In a model of 80 equal layers 78 of them launch exactly what the second did, and nobody reads what they
compute. They are launched again without their Python (`_C.Note`), at the host time that such a layer has
taken so far (the median, scaled by `repeat_cost`). What is not certain to be equal runs as it always did:
layers of another kind (sliding windows, other cache shapes), batches with other metadata, captures, pieces
that join streams.
"""

from __future__ import annotations

import operator
import re
from collections import deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from statistics import median_low
from types import ModuleType
from typing import Any

import torch
from torch import fx
from torch.utils._pytree import tree_leaves

from revati import _C
from revati.cuda import ledger
from revati.cuda.compiled import structure_of
from revati.engines.vllm.repeat_cost import RepeatCost, host_ns, repeats

_MIN_REPEATS = 4
_MAX_PERIOD = 8
_HISTORY = 31
_DIGITS = re.compile(r"\d+")
_NUMBER_OF_LAYER = frozenset(("layer_idx", "layer_id", "layer_index", "layer_number"))


@dataclass
class Unit:
    """One piece: the call and the parts of its result that are taken out."""

    node: fx.Node
    call: Callable[..., Any]
    arguments: list[fx.Node]
    items: list[tuple[int, fx.Node]] = field(default_factory=list)
    token: Hashable = None  # what it is and where its arguments come from, the same for equal layers
    last_uses: list[fx.Node] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)  # constants inside of it, maybe names of layers
    named_by: list[fx.Node] = field(default_factory=list)  # arguments that may be names of layers

    def run(self, values: dict[fx.Node, Any]) -> None:
        """Call the piece with what its arguments are in `values`, and store its results there."""
        result = self.call(*[values[argument] for argument in self.arguments])
        values[self.node] = result
        for index, node in self.items:
            values[node] = result[index]
        for node in self.last_uses:
            values.pop(node, None)

    @property
    def made(self) -> list[fx.Node]:
        """Nodes whose values it sets."""
        return [self.node, *(node for _, node in self.items)]


@dataclass(frozen=True)
class Run:
    """`count` equal layers of `period` pieces each, from piece `begin` on."""

    begin: int
    period: int
    count: int

    @property
    def end(self) -> int:
        return self.begin + self.period * self.count


@dataclass
class _Repeats:
    """The repeated layers of one call: their host time if they were watched ones, and what was charged."""

    share: float
    watched_ns: int = 0
    charged_ns: int = 0


class Layers:
    """A model's pieces in order, with the run of equal layers among them."""

    def __init__(self, units: list[Unit], run: Run, inputs: list[fx.Node], output: fx.Node) -> None:
        self._units, self._run, self._inputs, self._output = units, run, inputs, output
        self._layers = [units[begin : begin + run.period] for begin in range(run.begin, run.end, run.period)]
        self._outputs = [_leaving(layer) for layer in self._layers]
        self._host_ns: dict[Hashable, deque[int]] = {}
        self._cost = RepeatCost()
        self._kinds: dict[Hashable, int] = {}
        self._kind_of_name: dict[str, int] = {}
        self._never: set[Hashable] = set()
        self._captured: set[Any] = set()

    @classmethod
    def of(cls, graph: fx.GraphModule, calls: dict[str, Callable[..., Any]]) -> Layers | None:
        """None without equal layers, or if more is done between the pieces than taking results apart."""
        found = _units(graph, calls)
        if found is None:
            return None
        units, inputs, output = found
        run = _longest_run([unit.token for unit in units])
        if run is None:
            return None
        layers = cls(units, run, inputs, output)
        return layers if layers._chained() else None

    def _chained(self) -> bool:
        """Whether every layer hands the same values to the next one only."""
        places = [[place for place, _ in outputs] for outputs in self._outputs]
        if any(other != places[0] for other in places[:-1]) or not set(places[-1]) <= set(places[0]):
            return False
        owner = {node: unit.node for unit in self._units for node in unit.made}
        number = {
            unit.node: index // self._run.period
            for index, unit in enumerate(self._units[self._run.begin : self._run.end])
        }
        last = self._run.count
        for layer, outputs in enumerate(self._outputs):
            for _, node in outputs:
                for user in node.users:
                    if user.op != "output" and number.get(owner.get(user, user), last) > layer + 1:
                        return False
        return True

    def ready(self, context: Any) -> bool:
        """Whether this call may repeat layers: a step of the engine whose graphs of pieces all exist."""
        if not isinstance(context.attn_metadata, dict) or not context.attn_metadata:
            return False
        device = _C.current_device()
        if context.ubatch_slices is not None or _C.capturing(device) or _C.recording():
            return False
        mode = context.cudagraph_runtime_mode
        if mode.name == "NONE":
            return True
        key = (mode, context.batch_descriptor)
        if key not in self._captured:
            for unit in self._units:
                entries = getattr(unit.call, "concrete_cudagraph_entries", None)
                entry = entries.get(context.batch_descriptor) if entries is not None else None
                if entries is not None and (entry is None or entry.cudagraph is None):
                    return False
            self._captured.add(key)
        return True

    def full_call_is_due(self, context: Any) -> bool:
        """Whether this call should repeat nothing, to learn what that takes."""
        return self._cost.full_call_is_due(context.cudagraph_runtime_mode)

    def in_full(self, usual: Callable[..., Any], context: Any, args: tuple[Any, ...]) -> Any:
        """The model's result as vLLM comes to it."""
        began_ns = host_ns()
        result = usual(*args)
        with _C.OwnWork():
            self._cost.note_full(context.cudagraph_runtime_mode, host_ns() - began_ns)
        return result

    def __call__(self, context: Any, args: tuple[Any, ...]) -> Any:
        """The model's result; most of its layers are repeated."""
        with _C.OwnWork():  # what vLLM does not do costs the host nothing
            began_ns = host_ns()
            values = dict(zip(self._inputs, args, strict=True))
            kinds = [self._kind(layer, values, context) for layer in self._layers]
            repeats = _Repeats(self._cost.share(context.cudagraph_runtime_mode))
        for unit in self._units[: self._run.begin]:
            unit.run(values)
        seen: dict[Hashable, Any] = {}  # kind, in this step -> None: it ran once; then what it launched
        number = 0
        while number < len(self._layers):
            layer, (kind, _) = self._layers[number], kinds[number]
            if kinds[number] not in seen or kind in self._never:
                seen.setdefault(kinds[number], None)
                _run_all(layer, values)
            elif seen[kinds[number]] is None:
                seen[kinds[number]] = self._watch(layer, values, kind)
            else:
                number = self._repeat(number, kinds, seen, values, repeats)
                continue
            number += 1
        for unit in self._units[self._run.end :]:
            unit.run(values)
        result = fx.map_arg(self._output.args[0], values.__getitem__)
        with _C.OwnWork():
            run_ns = host_ns() - began_ns - repeats.charged_ns
            self._cost.note_repeating(context.cudagraph_runtime_mode, run_ns, repeats.watched_ns)
        return result

    def _repeat(
        self,
        number: int,
        kinds: list[tuple[Hashable, Hashable]],
        seen: dict[Hashable, Any],
        values: dict[fx.Node, Any],
        repeats: _Repeats,
    ) -> int:
        """Repeat the layer `number` and those behind it that can be; the number of the first that cannot."""
        with _C.OwnWork():
            began_ns = host_ns()
            while number < len(self._layers) and (noted := seen.get(kinds[number])) is not None:
                watched_ns = median_low(self._host_ns[kinds[number][0]])
                repeats.watched_ns += watched_ns
                noted.repeat(int(watched_ns * repeats.share))
                self._hand_on(number, values)
                number += 1
            repeats.charged_ns += host_ns() - began_ns
        return number

    def _watch(self, layer: list[Unit], values: dict[fx.Node, Any], kind: Hashable) -> Any:
        noted = _C.Note()
        with noted:
            _run_all(layer, values)
        if not noted.repeatable:
            self._never.add(kind)
            return None
        self._host_ns.setdefault(kind, deque(maxlen=_HISTORY)).append(noted.host_ns)
        return noted

    def _hand_on(self, number: int, values: dict[fx.Node, Any]) -> None:
        """What the layer would have made is what the one before it made: phantoms of the same shapes."""
        before = dict(self._outputs[number - 1])
        for place, node in self._outputs[number]:
            values[node] = values[before[place]]
        for node in before.values():
            if all(user.op != "output" for user in node.users):
                values.pop(node, None)

    def _kind(self, layer: list[Unit], values: dict[fx.Node, Any], context: Any) -> tuple[Hashable, Hashable]:
        """What kind of layer it is at any time, and which batch metadata it sees in this step."""
        kinds: list[int] = []
        metadata: list[int] = []
        for unit in layer:
            given = [getattr(values[argument], "value", values[argument]) for argument in unit.named_by]
            for name in (*unit.texts, *given):
                if not isinstance(name, str) or name not in context.no_compile_layers:
                    continue
                kind = self._kind_of_name.get(name)
                if kind is None:
                    described = _describe(context.no_compile_layers[name])
                    kind = self._kinds.setdefault(described, len(self._kinds))
                    self._kind_of_name[name] = kind
                kinds.append(kind)
                metadata.append(id(context.attn_metadata.get(name)))
        return (*kinds, context.cudagraph_runtime_mode), tuple(metadata)


def _run_all(layer: list[Unit], values: dict[fx.Node, Any]) -> None:
    for unit in layer:
        unit.run(values)


def _units(
    graph: fx.GraphModule, calls: dict[str, Callable[..., Any]]
) -> tuple[list[Unit], list[fx.Node], fx.Node] | None:
    units: list[Unit] = []
    inputs: list[fx.Node] = []
    home: dict[fx.Node, tuple[int, int | None]] = {}  # node -> its unit, and which part of the result
    output: fx.Node | None = None
    for node in graph.graph.nodes:
        if node.op == "placeholder":
            inputs.append(node)
        elif node.op == "call_module":
            arguments = [argument for argument in node.args if isinstance(argument, fx.Node)]
            if node.kwargs or len(arguments) < len(node.args):
                return None
            piece = graph._modules[str(node.target)]
            text = structure_of(piece) if isinstance(piece, fx.GraphModule) else None
            home[node] = (len(units), None)
            call = calls[str(node.target)]
            unit = Unit(node, call.forward if isinstance(call, fx.GraphModule) else call, arguments)
            unit.token = (text if text is not None else node.name, _sources(arguments, len(units), home))
            unit.named_by = [argument for argument in arguments if _may_name(argument)]
            if isinstance(piece, fx.GraphModule):
                unit.texts = _texts(piece)
            units.append(unit)
        elif node.op == "call_function" and node.target is operator.getitem and node.args[0] in home:
            owner, part = home[node.args[0]]
            if part is not None or not isinstance(node.args[1], int):
                return None
            home[node] = (owner, node.args[1])
            units[owner].items.append((node.args[1], node))
        elif node.op == "output":
            output = node
        else:
            return None
    if output is None:
        return None
    for node, (owner, _) in home.items():
        users = [home[user][0] for user in node.users if user in home]
        if all(user.op != "output" for user in node.users):
            units[max(users, default=owner)].last_uses.append(node)
    return units, inputs, output


def _sources(arguments: list[fx.Node], number: int, home: dict[fx.Node, tuple[int, int | None]]) -> Hashable:
    """Where the arguments of a piece come from: how many pieces back, or what kind of input of the model."""

    def source(argument: fx.Node) -> Any:
        if argument in home:
            owner, part = home[argument]
            return f"back {number - owner} {part}"
        value = argument.meta.get("example_value")
        if not isinstance(value, torch.Tensor):
            return f"in {type(value).__name__}"
        return f"in {value.dtype} {[str(s) for s in value.shape]} {[str(s) for s in value.stride()]}"

    return tuple(source(argument) for argument in arguments)


def _may_name(argument: fx.Node) -> bool:
    value = argument.meta.get("example_value")
    return argument.op == "placeholder" and not isinstance(value, (torch.Tensor, torch.SymInt, int, float))


def _texts(piece: fx.GraphModule) -> list[str]:
    leaves = (leaf for node in piece.graph.nodes for leaf in tree_leaves((node.args, node.kwargs)))
    return [leaf for leaf in leaves if isinstance(leaf, str)]


def _longest_run(tokens: list[Hashable]) -> Run | None:
    """The run of equal layers that covers most pieces; the shortest period among equals."""
    best: Run | None = None
    for period in range(1, _MAX_PERIOD + 1):
        begin = 0
        for index in range(len(tokens) - period + 1):
            equal = index + period < len(tokens) and tokens[index] == tokens[index + period]
            if not equal:
                count = (index - begin) // period + 1
                covered = 0 if best is None else best.end - best.begin + period
                if count >= _MIN_REPEATS and count * period > covered:
                    best = Run(begin, period, count)
                begin = index + 1
    return best


def _leaving(layer: list[Unit]) -> list[tuple[tuple[int, int], fx.Node]]:
    """(place in the layer, node) of what is used outside of it."""
    inside = {node for unit in layer for node in unit.made}
    return [
        ((index, part), node)
        for index, unit in enumerate(layer)
        for part, node in enumerate(unit.made)
        if any(user not in inside for user in node.users)
    ]


def _describe(layer: Any) -> Hashable:
    """Everything of an attention layer that may decide what it launches."""
    cache = getattr(layer, "kv_cache", None)
    caches = cache if isinstance(cache, (list, tuple)) else [cache]
    shapes = tuple(
        (str(c.dtype), tuple(c.shape), tuple(c.stride())) for c in caches if isinstance(c, torch.Tensor)
    )
    implementation = getattr(layer, "impl", None)
    return (
        type(layer).__qualname__,
        _plain(layer),
        type(implementation).__qualname__,
        _plain(implementation),
        shapes,
    )


def _plain(thing: Any) -> Hashable:
    found = []
    for name, value in sorted(getattr(thing, "__dict__", {}).items()):
        if isinstance(value, str):
            found.append((name, _DIGITS.sub("#", value)))
        elif isinstance(value, (int, float, tuple, type(None))) and name not in _NUMBER_OF_LAYER:
            found.append((name, repr(value)))
    return tuple(found)


def install(module: ModuleType) -> None:
    """Change `vllm.compilation.backends`: the function that calls a model's pieces one after the other."""
    if not repeats("layers") or not hasattr(module, "generate_execution_code"):
        return
    graphs: list[fx.GraphModule] = []
    generate, build = module.generate_execution_code, module.compile_execution_fn

    def generate_execution_code(split_gm: fx.GraphModule) -> Any:
        graphs[:] = [split_gm]
        return generate(split_gm)

    def compile_execution_fn(code: str, calls: dict[str, Any], *rest: Any) -> Callable[..., Any]:
        usual = build(code, calls, *rest)
        layers = Layers.of(graphs.pop(), calls) if graphs else None
        return usual if layers is None else _either(layers, usual)

    why = "equal layers of a model launch the same: their Python need not run for each"
    until = "never: without it the emulation is right, and slower"
    ledger.replace(module, "generate_execution_code", generate_execution_code, why=why, until=until)
    ledger.replace(module, "compile_execution_fn", compile_execution_fn, why=why, until=until)


def _either(layers: Layers, usual: Callable[..., Any]) -> Callable[..., Any]:
    from vllm.distributed.kv_transfer import has_kv_transfer_group
    from vllm.forward_context import get_forward_context, is_forward_context_available

    def call(*args: Any) -> Any:
        if is_forward_context_available() and not has_kv_transfer_group():
            context = get_forward_context()
            if layers.ready(context):
                if layers.full_call_is_due(context):
                    return layers.in_full(usual, context, args)
                return layers(context, args)
        return usual(*args)

    return call
