"""Device memory that a compiler takes for a moment while it compiles a graph.

`torch._inductor.standalone_compile`, which vLLM calls, sets `triton.autotune_at_compile_time`: each new
Triton kernel is run once on example arguments (`PythonWrapperCodegen.generate_kernel_call`), which have the
sizes of the real ones. A graph with an embedding so holds a second embedding table for a moment, and vLLM's
memory profiling, which runs while its model is compiled, counts it: on a real GPU a cold start of
Llama-3.1-8B has some 1 GiB less KV cache for it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from revati.cuda.fusion import Kernel, Root, Step


def example_bytes(steps: Sequence[Step], size_of: Callable[[Root], int]) -> int:
    """Most bytes of example arguments that live at once; `size_of` says how large a storage is.

    An argument is made for the first kernel that takes it and dropped after the last, as inductor's block of
    calls does. Kernels that are no Triton kernels (matrix products, attention, collectives) are not tuned.
    """
    arguments = [_arguments(step) for step in steps if isinstance(step, Kernel)]
    last = {root: number for number, roots in enumerate(arguments) for root in roots}
    alive: set[Root] = set()
    peak = 0
    for number, roots in enumerate(arguments):
        alive |= roots
        peak = max(peak, sum(size_of(root) for root in alive))
        alive = {root for root in alive if last[root] > number}
    return peak


def hold(size_bytes: int) -> None:
    """Take `size_bytes` of device memory for a moment: PyTorch's peak statistics show it, nothing stays.

    The block goes back to the driver at once. vLLM limits splitting while it profiles
    (`max_split_size_mb:20`), so that no later allocation can live in such a block and keep it.
    """
    if size_bytes > 0:
        block = torch.empty(size_bytes, dtype=torch.uint8, device=torch.cuda.current_device())
        del block
        torch.cuda.empty_cache()


def _arguments(kernel: Kernel) -> set[Root]:
    """Storages that a fused kernel takes: what it reads from outside of it, and what it writes for others."""
    made: set[Root] = set()
    taken = set(kernel.writes)
    for operator in kernel.operators:
        taken |= {root for _, root in operator.reads if root not in made}
        made |= set(operator.writes)
    return taken
