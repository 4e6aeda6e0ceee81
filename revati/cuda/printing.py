"""`print(tensor)` of a phantom says that there is nothing to print."""

from __future__ import annotations

from typing import Any


def install() -> None:
    """Wrap `torch._tensor_str._str`; device tensors whose values exist print as usual."""
    import torch
    from torch import _tensor_str

    from revati import _C
    from revati.cuda import ledger

    before = _tensor_str._str

    def _str(self: torch.Tensor, *, tensor_contents: str | None = None) -> str:
        if tensor_contents is None and type(self).__name__ in ("Tensor", "Parameter") and not _C.is_live(self):
            tensor_contents = "<phantom: not computed on a virtual GPU>"
            shape = f", size={tuple(self.shape)}, dtype={self.dtype}, device='{self.device}'"
            return f"tensor({tensor_contents}{shape})"
        if type(self).__name__ in ("Tensor", "Parameter") and self.device.type in ("cuda", "revati"):
            text: Any = before(_host_copy(self), tensor_contents=tensor_contents)
            return text[:-1] + f", device='{self.device}')"
        return before(self, tensor_contents=tensor_contents)

    ledger.replace(_tensor_str, "_str", _str, why="a phantom has no values to print", until="never")


def _host_copy(tensor: Any) -> Any:
    from revati import _C

    return _C.host_view(tensor.detach()).clone()
