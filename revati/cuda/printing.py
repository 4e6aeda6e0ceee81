"""`print(tensor)` of a phantom says that there is nothing to print."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def install() -> None:
    """Wrap `torch._tensor_str._str`; device tensors whose values exist print as usual."""
    from torch import _tensor_str

    from revati import _C
    from revati.cuda import ledger

    before = _tensor_str._str

    def _str(self: torch.Tensor, *, tensor_contents: str | None = None) -> str:
        if (
            tensor_contents is None
            and type(self).__name__ in ("Tensor", "Parameter")
            and not _C.is_live(self)
        ):
            tensor_contents = "<phantom: not computed on a virtual GPU>"
            shape = f", size={tuple(self.shape)}, dtype={self.dtype}, device='{self.device}'"
            return f"tensor({tensor_contents}{shape})"
        if type(self).__name__ in ("Tensor", "Parameter") and self.device.type in ("cuda", "revati"):
            text: str = before(_host_copy(self), tensor_contents=tensor_contents)
            values, comma, dtype = text[:-1].partition(
                ", dtype="
            )  # the order of torch: device, dtype, autograd
            return f"{values}, device='{self.device}'{comma}{dtype}{_autograd(self)})"
        return before(self, tensor_contents=tensor_contents)

    ledger.replace(_tensor_str, "_str", _str, why="a phantom has no values to print", until="never")


def _autograd(tensor: torch.Tensor) -> str:
    if tensor.grad_fn is not None:
        return f", grad_fn=<{type(tensor.grad_fn).__name__}>"
    return ", requires_grad=True" if tensor.requires_grad else ""


def _host_copy(tensor: Any) -> Any:
    from revati import _C

    return _C.host_view(tensor.detach()).clone()
