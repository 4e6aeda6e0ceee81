"""What a compiler makes of a graph: which operators become one kernel, and which are launched by themselves.

Follows torch.compile's inductor in kind, not in detail: pointwise operators, reductions and gathers that
follow each other or read the same data become one kernel, which reads what comes from outside of it and
writes what is used outside of it; matrix products, attention, collectives and opaque kernels stay as they
are. What an operator is, a recorded run says: an operator fuses if all it launched belongs to `FUSIBLE`
families.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx
from torch.utils._pytree import tree_leaves

FUSIBLE = frozenset(
    ("norm", "activation", "rope", "quantize", "elementwise", "gather", "embedding", "reduction", "copy_d2d")
)
_REDUCING = frozenset(("norm", "reduction"))
_GATHERING = frozenset(("gather", "embedding"))
Root = tuple[fx.Node, int]
"""Where a storage was made: the node, and which of its tensors."""


@dataclass(frozen=True)
class Launch:
    """One recorded kernel: its number in the recording, its family, and whether it is a collective."""

    number: int
    family: str
    is_collective: bool


@dataclass
class Operator:
    """One node of a graph that launches something."""

    node: fx.Node
    launches: list[Launch]
    reads: list[tuple[fx.Node, Root]]  # tensor arguments and the storages behind them
    writes: list[Root]  # storages it makes or changes
    stage: int = 0

    @property
    def fuses(self) -> bool:
        """Whether a compiler would put it into one kernel with its neighbours."""
        return all(launch.family in FUSIBLE and not launch.is_collective for launch in self.launches)


@dataclass
class Kernel:
    """Operators that run as one kernel; `reads` are arguments, each storage region once."""

    operators: list[Operator]
    reads: list[tuple[fx.Node, bool]] = field(
        default_factory=list
    )  # argument, may it be a table that is indexed
    writes: list[Root] = field(default_factory=list)

    @property
    def family(self) -> str:
        """The latency family of the whole: the heaviest kind in it."""
        families = {launch.family for operator in self.operators for launch in operator.launches}
        if families & _REDUCING:
            return "norm"
        for family in ("activation", "rope", "embedding", "quantize"):
            if family in families:
                return family
        return "elementwise"

    @property
    def name(self) -> str:
        """A name like inductor's: triton_red_fused_mean_mul_rsqrt."""
        kind = "red" if self.family == "norm" else "poi"
        words = dict.fromkeys(_word(operator.node) for operator in self.operators)
        return f"inductor::triton_{kind}_fused_{'_'.join(words)[:80]}"


Step = Operator | Kernel


class Watcher(fx.Interpreter):
    """Runs a graph once, noting what each node launches and whose memory its results lie in."""

    def __init__(self, graph: fx.GraphModule, recorder: Any) -> None:
        super().__init__(graph)
        self._recorder = recorder
        self.operators: list[Operator] = []
        self.roots: dict[fx.Node, list[Root]] = {}  # of each tensor of a node's value
        self.shapes: dict[Root, tuple[int, int]] = {}  # elements, bytes an element
        self._storages: dict[fx.Node, list[int]] = {}

    def run_node(self, n: fx.Node) -> Any:
        """One node, watched."""
        before = self._recorder.count
        result = super().run_node(n)
        after = self._recorder.count
        inputs = list(n.all_input_nodes)
        known = {
            pointer: root
            for node in inputs
            for pointer, root in zip(self._storages[node], self.roots[node], strict=True)
        }
        pointers: list[int] = []
        roots: list[Root] = []
        fresh: list[Root] = []
        for index, leaf in enumerate(t for t in tree_leaves(result) if isinstance(t, torch.Tensor)):
            pointer = leaf.untyped_storage()._cdata
            root = known.get(pointer)
            if root is None:
                root = known[pointer] = (n, index)
                fresh.append(root)
                self.shapes[root] = (leaf.numel(), leaf.element_size())
            pointers.append(pointer)
            roots.append(root)
        self._storages[n], self.roots[n] = pointers, roots
        if after > before and n.op != "placeholder":
            launches = self._recorder.launches()[before:after]
            self.operators.append(
                Operator(
                    n,
                    [Launch(before + k, row[1], row[4] >= 0) for k, row in enumerate(launches)],
                    [(node, root) for node in inputs for root in self.roots[node]],
                    [*fresh, *_mutated(n, self.roots)],
                )
            )
        return result


def plan_kernels(watcher: Watcher) -> list[Step]:
    """The steps of a graph in an order that works: kernels of fused operators, and single operators."""
    operators = watcher.operators
    sources = _find_stages(operators, watcher)
    parent = {id(operator): operator for operator in operators}

    def leader(operator: Operator) -> Operator:
        while parent[id(operator)] is not operator:
            operator = parent[id(operator)]
        return operator

    first_reader: dict[tuple[int, Root], Operator] = {}
    for operator in operators:
        if not operator.fuses:
            continue
        for source in sources[id(operator)].values():
            if source.fuses and source.stage == operator.stage:
                parent[id(leader(operator))] = leader(source)
        for node, root in operator.reads:
            if root[0].op != "placeholder" or _is_activation(
                node
            ):  # sharing a weight or a table joins nothing
                other = first_reader.setdefault((operator.stage, root), operator)
                parent[id(leader(operator))] = leader(other)
    kernels: dict[int, Kernel] = {}
    steps: list[tuple[int, int, Step]] = []
    for position, operator in enumerate(operators):
        if not operator.fuses:
            steps.append((2 * operator.stage, position, operator))
            continue
        head = id(leader(operator))
        if head not in kernels:
            kernels[head] = Kernel([])
            steps.append((2 * operator.stage + 1, position, kernels[head]))
        kernels[head].operators.append(operator)
    _find_traffic(kernels.values(), operators, watcher)
    return [step for _, _, step in sorted(steps, key=lambda item: item[:2])]


def _find_stages(operators: list[Operator], watcher: Watcher) -> dict[int, dict[Root, Operator]]:
    """Sets every operator's stage: those of one stage have no launch of their own between them.

    A fusible operator stands as early as it can, or where its only users stand if they all fuse (as inductor
    computes an index where it is used). Returns who wrote what each operator reads.
    """
    writer: dict[Root, Operator] = {}
    sources: dict[int, dict[Root, Operator]] = {}
    users: dict[int, list[Operator]] = {id(operator): [] for operator in operators}
    for operator in operators:
        operator.reads = [  # memory that nobody wrote yet (an `out` argument) is not read
            (node, root)
            for node, root in operator.reads
            if root in writer or root[0].op in ("placeholder", "get_attr")
        ]
        found = {root: writer[root] for _, root in operator.reads if root in writer}
        sources[id(operator)] = found
        for source in found.values():
            users[id(source)].append(operator)
        operator.stage = max((source.stage for source in found.values()), default=0) + (not operator.fuses)
        for root in operator.writes:
            writer[root] = operator
    leaving = _leaving(watcher)
    for operator in reversed(operators):
        changes_input = any(root in leaving or root[0].op == "placeholder" for root in operator.writes)
        later = users[id(operator)]
        if operator.fuses and later and not changes_input and all(user.fuses for user in later):
            operator.stage = min(user.stage for user in later)
    return sources


def _leaving(watcher: Watcher) -> set[Root]:
    """Storages that the graph returns."""
    (output,) = [node for node in watcher.graph.nodes if node.op == "output"]
    return {root for node in output.all_input_nodes for root in watcher.roots[node]}


def _find_traffic(kernels: Iterable[Kernel], operators: list[Operator], watcher: Watcher) -> None:
    """What each kernel reads from outside of it and what it must write."""
    used_by: dict[Root, list[Operator]] = {}
    for operator in operators:
        for _, root in operator.reads:
            used_by.setdefault(root, []).append(operator)
    leaving = _leaving(watcher)
    for kernel in kernels:
        inside = {id(operator) for operator in kernel.operators}
        made: set[Root] = set()
        seen: set[fx.Node] = set()
        for operator in kernel.operators:
            gathers = any(launch.family in _GATHERING for launch in operator.launches)
            for node, root in operator.reads:
                if root not in made and node not in seen:
                    seen.add(node)
                    kernel.reads.append((node, gathers))
            for root in operator.writes:
                made.add(root)
                outside = root[0].op == "placeholder" or root in leaving
                if root not in kernel.writes and (
                    outside or any(id(user) not in inside for user in used_by.get(root, ()))
                ):
                    kernel.writes.append(root)


def _is_activation(node: fx.Node) -> bool:
    """Whether the first dimension of a graph input varies from call to call (tokens), unlike a weight's."""
    value = node.meta.get("example_value")
    return isinstance(value, torch.Tensor) and bool(value.dim()) and not isinstance(value.shape[0], int)


def _mutated(node: fx.Node, roots: dict[fx.Node, list[Root]]) -> list[Root]:
    """Storages of arguments that an operator writes into, by its schema or by PyTorch's naming rule."""
    target = node.target
    if isinstance(target, torch._ops.OpOverloadPacket) and len(target.overloads()) == 1:
        target = getattr(target, target.overloads()[0])
    if isinstance(target, torch._ops.OpOverload):
        found: list[Root] = []
        for index, argument in enumerate(target._schema.arguments):
            if argument.alias_info is None or not argument.alias_info.is_write:
                continue
            value = node.args[index] if index < len(node.args) else node.kwargs.get(argument.name)
            for leaf in tree_leaves(value):
                if isinstance(leaf, fx.Node):
                    found += roots.get(leaf, [])
        return found
    name = target if isinstance(target, str) else getattr(target, "__name__", "")
    in_place = name == "setitem" or (name.endswith("_") and not name.endswith("__"))
    if in_place and node.args and isinstance(node.args[0], fx.Node):
        return list(roots.get(node.args[0], []))
    return []


def _word(node: fx.Node) -> str:
    target = node.target
    if isinstance(target, torch._ops.OpOverload):
        return str(target._schema.name.partition("::")[2])
    return str(target if isinstance(target, str) else getattr(target, "__name__", "op")).strip("_")
