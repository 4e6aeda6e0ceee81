"""`torch.revati.make_graphed_callables`: forward and backward of a callable as one graph each.

The contract is that of torch.cuda.make_graphed_callables, whose own code is bound to the device `cuda`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.utils import _pytree as pytree

Tensors = tuple[torch.Tensor, ...]


def make_graphed_callables(
    callables: Any,
    sample_args: Any,
    num_warmup_iters: int = 3,
    allow_unused_input: bool = False,
    pool: tuple[int, int] | None = None,
) -> Any:
    """Graphed versions of `callables` (a function, a module, a tuple of them), captured over `sample_args`.

    sample_args: the positional arguments of one call, tensors only; a tuple of such tuples for several
    callables. Modules come back with their `forward` replaced, functions as new functions. Raises TypeError
    for an argument that is no tensor, RuntimeError inside an autocast region with a cache.
    """
    if torch.is_autocast_enabled("revati") and torch.is_autocast_cache_enabled():
        raise RuntimeError(
            "make_graphed_callables does not support the autocast caching. Please set `cache_enabled=False`."
        )
    single = not isinstance(callables, tuple)
    functions: tuple[Any, ...] = (callables,) if single else callables
    samples: tuple[tuple[Any, ...], ...] = (sample_args,) if single else sample_args
    pool = torch.revati.graph_pool_handle() if pool is None else pool  # type: ignore[attr-defined]
    graphed = [_Graphed(f, args, allow_unused_input) for f, args in zip(functions, samples, strict=True)]
    for one in graphed:
        one.warm_up(num_warmup_iters)
    for one in graphed:  # in the order of a training step, since all share a pool
        one.capture_forward(pool)
    for one in reversed(graphed):
        one.capture_backward(pool)
    results = tuple(one.callable() for one in graphed)
    return results[0] if single else results


class _Graphed:
    """One callable: the tensors that its graphs read and write, and the graphs."""

    def __init__(self, function: Any, args: tuple[Any, ...], allow_unused: bool) -> None:
        self.function, self.args, self.allow_unused = function, args, allow_unused
        user = pytree.arg_tree_leaves(*args)
        if not all(isinstance(value, torch.Tensor) for value in user):
            raise TypeError("revati: sample_args of make_graphed_callables must be tensors")
        self.user_count = len(user)
        self.parameters: Tensors = (
            tuple(function.parameters()) if isinstance(function, torch.nn.Module) else ()
        )
        self.inputs: Tensors = (*user, *self.parameters)
        self.outputs: Tensors = ()
        self.out_grads: list[torch.Tensor | None] = []
        self.in_grads: list[torch.Tensor | None] = []
        new_graph = torch.revati.CUDAGraph  # type: ignore[attr-defined]
        self.forward_graph, self.backward_graph = new_graph(), new_graph()

    def _gradients(
        self, outputs: Sequence[torch.Tensor], out_grads: Sequence[torch.Tensor | None]
    ) -> list[torch.Tensor | None]:
        """Gradients of the inputs, None for those that want none."""
        wanted = [i for i in self.inputs if i.requires_grad]
        differentiable = [o for o in outputs if o.requires_grad]
        if not wanted or not differentiable:
            return [None] * len(self.inputs)
        found = iter(
            torch.autograd.grad(
                differentiable,
                wanted,
                [g for g in out_grads if g is not None],
                allow_unused=self.allow_unused,
            )
        )
        return [next(found) if i.requires_grad else None for i in self.inputs]

    def warm_up(self, iterations: int) -> None:
        torch.revati.synchronize()  # type: ignore[attr-defined]
        with torch.revati.stream(torch.Stream(self.inputs[0].device)):  # type: ignore[attr-defined]
            for _ in range(iterations):
                outputs = pytree.tree_leaves(self.function(*self.args))
                self._gradients(outputs, [torch.empty_like(o) if o.requires_grad else None for o in outputs])
        torch.revati.synchronize()  # type: ignore[attr-defined]

    def capture_forward(self, pool: tuple[int, int]) -> None:
        with torch.revati.graph(self.forward_graph, pool=pool):  # type: ignore[attr-defined]
            outputs = self.function(*self.args)
        leaves, self.structure = pytree.tree_flatten(outputs)
        self.outputs = tuple(leaves)

    def capture_backward(self, pool: tuple[int, int]) -> None:
        self.out_grads = [torch.empty_like(o) if o.requires_grad else None for o in self.outputs]
        with torch.revati.graph(self.backward_graph, pool=pool):  # type: ignore[attr-defined]
            self.in_grads = self._gradients(self.outputs, self.out_grads)

    def callable(self) -> Any:
        function, apply, parameters, structure = (
            self.function,
            _node(self).apply,
            self.parameters,
            self.structure,
        )

        def graphed(*args: Any) -> Any:
            return pytree.tree_unflatten(apply(*pytree.arg_tree_leaves(*args), *parameters), structure)

        if not isinstance(function, torch.nn.Module):
            return graphed
        eager, captured_in_training = function.forward, function.training

        def forward(*args: Any, **kwargs: Any) -> Any:
            return graphed(*args) if function.training == captured_in_training else eager(*args, **kwargs)

        function.forward = forward  # type: ignore[method-assign]
        return function


def _node(g: _Graphed) -> Any:
    """The autograd function that replays the graphs of `g`."""

    class Node(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *inputs: torch.Tensor) -> Tensors:  # type: ignore[override]
            _refill(g.inputs[: g.user_count], inputs)
            g.forward_graph.replay()
            return tuple(o.detach() for o in g.outputs)

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # type: ignore[override]
            _refill(g.out_grads, grads)
            g.backward_graph.replay()
            return tuple(None if b is None else b.detach() for b in g.in_grads)

    return Node


def _refill(static: Sequence[torch.Tensor | None], given: Sequence[torch.Tensor]) -> None:
    for mine, theirs in zip(static, given, strict=False):
        if mine is not None and mine.data_ptr() != theirs.data_ptr():
            mine.copy_(theirs)
