"""`torch.compile` on the virtual GPU: graphs are traced as usual and then run eagerly.

Inductor's generated kernels need a real GPU to compile and to tune. Dynamo's tracing, guards and graph breaks
stay; what inductor would have compiled runs op by op, and is recorded and priced so. Other backends are left
alone.
"""

from __future__ import annotations

import logging
from typing import Any

log = logging.getLogger("revati")
_told: list[str] = []


def install() -> None:
    """Replace inductor where torch.compile calls it, for graphs with tensors on a virtual GPU. Idempotent."""
    import torch

    from revati.cuda import ledger

    wrapper: Any = torch._TorchCompileInductorWrapper
    if getattr(wrapper.__call__, "revati", False):
        return

    def __call__(self: Any, model_: Any, inputs_: Any, **kwargs: Any) -> Any:
        if not _on_virtual_gpu(model_, inputs_):
            return before(self, model_, inputs_, **kwargs)
        if not _told:
            _told.append("eager")
            log.warning(
                "revati: torch.compile traces, and runs eagerly: inductor generates code for real GPUs only"
            )
        return model_.forward

    __call__.revati = True  # type: ignore[attr-defined]
    before = ledger.replace(
        wrapper, "__call__", __call__, why="inductor generates code for real GPUs only", until="never"
    )


def _on_virtual_gpu(model: Any, inputs: Any) -> bool:
    """Whether the graph takes, holds or makes a tensor on the virtual GPU."""
    import torch

    def ours(value: Any) -> bool:
        return isinstance(value, torch.Tensor) and value.device.type in ("cuda", "revati")

    if any(ours(value) for value in inputs):
        return True
    for node in model.graph.nodes:
        if ours(node.meta.get("example_value")) or ours(node.meta.get("val")):
            return True
    return any(ours(value) for value in (*model.parameters(), *model.buffers()))
