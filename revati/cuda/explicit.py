"""The explicit identity: `revati.init()` adds the device `revati` to this process, and nothing else."""

from __future__ import annotations

_state: dict[str, object] = {}


def init(gpu: str = "h100_sxm", count: int = 1, latency: str = "profile", strict: bool = False) -> None:
    """Register `torch.device("revati")` with `count` virtual GPUs of kind `gpu`; durations from `latency`.

    Raises UnknownGpuError for an unknown GPU, RuntimeError where the process already has another identity.
    A second call with the same GPU and count does nothing.
    """
    import os

    import torch

    from revati.cuda import compatibility

    compatibility.check()
    from revati import _C
    from revati.comm import process_group
    from revati.cuda import bindings, compile_fallback, identity, printing, session
    from revati.cuda import torch_revati as module

    if os.environ.get("REVATI_IDENTITY") == "cuda":
        raise RuntimeError(
            "revati: this process presents the virtual GPU as cuda; use torch.device('cuda'), "
            "or start it without `revati run`"
        )
    if _state:
        if _state != {"gpu": gpu, "count": count}:
            raise RuntimeError(
                f"revati: already initialised with {_state['count']} x {_state['gpu']}; "
                f"start a new process for another GPU"
            )
        return
    bindings.configure_backend(gpu, count)
    os.environ.setdefault("REVATI_GPU", gpu)
    _C.install(False)
    torch.utils.rename_privateuse1_backend("revati")
    torch._register_device_module("revati", module)
    torch.utils.generate_methods_for_privateuse1_backend(for_tensor=True, for_module=True, for_storage=True)
    session.connect_latency(gpu, latency, strict)
    printing.install()
    compile_fallback.install()
    identity.arm_explicit()
    process_group.register_backend()
    _state.update(gpu=gpu, count=count)
