"""vLLM's own collectives on virtual GPUs.

vLLM decides which implementation an all-reduce takes (FlashInfer, its custom kernel, symmetric memory,
NCCL) by device, size and world size. All of that code runs as it is; only what would touch the hardware is
replaced: the NCCL library, the kernels over peer memory, and the set-up of that memory. Each launches the
virtual collective under a name that says what it stands for, so that the latency layer can tell them apart.
"""

from __future__ import annotations

import itertools
import os
import secrets
import sys
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

from revati.comm.process_group import NCCL_VERSION
from revati.comm.world import buffer_bytes, new_communicator
from revati.cuda import ledger
from revati.engines.vllm import (
    compiler,
    ending,
    fakes,
    flash_attention,
    flashinfer,
    folding,
    older,
    recorded_lengths,
    ring,
    sleeping,
    steps,
    versions,
)

_COMM = "vllm.distributed.device_communicators."
_UNTIL = "never: it stands for the hardware"


def install() -> None:
    """Replace what touches hardware, in each module when it is imported (or now, if it already is)."""
    from revati.cuda import identity

    asked = folding.PATCHES if folding.enabled() else {}
    if recorded_lengths.enabled():
        asked = {**asked, **recorded_lengths.PATCHES}
    if versions.is_older():
        asked = {**asked, **older.PATCHES}
    always = {
        **_PATCHES,
        **compiler.PATCHES,
        **ending.PATCHES,
        **fakes.PATCHES,
        **flash_attention.PATCHES,
        **flashinfer.PATCHES,
        **sleeping.PATCHES,
        **steps.PATCHES,
    }
    for name, patch in {**always, **asked}.items():
        if name in sys.modules:
            patch(sys.modules[name])
        elif identity._finder is not None:
            identity._finder.after(name, patch)


def _multicast() -> bool:
    """Whether this GPU's node has an NVSwitch that multicasts (NVLink SHARP): SXM parts from Hopper on."""
    from revati.spec import load_spec

    spec = load_spec(os.environ.get("REVATI_GPU", "h100_sxm"))
    return spec.compute_capability >= (9, 0) and spec.nvlink_bytes_per_s > 0


def _join(group: Any, label: str, outside_bytes: int = 0) -> Any:
    """The communicator of `group`, a CPU process group of torch or a stateless one of vLLM."""
    import torch.distributed as dist

    name = [f"{label}/{secrets.token_hex(16)}"]
    if isinstance(group, dist.ProcessGroup):
        dist.broadcast_object_list(name, src=dist.get_process_group_ranks(group)[0], group=group)
        rank, size = dist.get_rank(group), dist.get_world_size(group)
    else:
        name = [group.broadcast_obj(name[0], src=0)]
        rank, size = group.rank, group.world_size
    return new_communicator(name[0], rank, size, outside_bytes)


def _outside(size: int) -> None:
    """Account device memory that is taken without PyTorch's allocator."""
    import torch

    from revati import _C

    _C.memory_outside(torch.cuda.current_device(), size)


def _stream(stream: Any) -> int:
    return -1 if stream is None else int(stream.stream_id)


# ---- NCCL


class VirtualNccl:
    """Stands for `NCCLLibrary`: what `PyNcclCommunicator` asks of libnccl besides the collectives."""

    def __init__(self, so_file: str | None = None) -> None:
        pass

    def ncclGetRawVersion(self) -> int:
        major, minor, patch = NCCL_VERSION
        return major * 10000 + minor * 100 + patch

    def ncclGetVersion(self) -> str:
        return ".".join(map(str, NCCL_VERSION))

    def ncclGetUniqueId(self) -> Any:
        return self.unique_id_from_bytes(secrets.token_bytes(128))

    def unique_id_from_bytes(self, data: bytes) -> Any:
        from vllm.distributed.device_communicators.pynccl_wrapper import ncclUniqueId

        return ncclUniqueId.from_buffer_copy(data)

    def ncclCommInitRank(self, world_size: int, unique_id: Any, rank: int) -> Any:
        """The communicator, which vLLM before 0.13 takes from here."""
        name = f"nccl/{bytes(unique_id).hex()}"
        return new_communicator(name, rank, world_size, buffer_bytes())

    def has_symbol(self, name: str) -> bool:
        return False

    def ncclGetErrorString(self, result: int) -> str:
        return "no error"

    def ncclGroupStart(self) -> None: ...

    def ncclGroupEnd(self) -> None: ...

    def ncclCommDestroy(self, comm: Any) -> None: ...

    def ncclCommAbort(self, comm: Any) -> None: ...

    def ncclCommWindowRegister(self, comm: Any, buffer: Any, size: int, flags: int) -> int:
        return 0

    def ncclCommWindowDeregister(self, comm: Any, window: Any) -> None: ...


def _reduce_name(op: Any) -> str:
    name = str(op).rpartition(".")[2].lower()
    return name if name in ("sum", "avg", "product", "min", "max") else "sum"


def _init_comm(self: Any, device: Any) -> None:
    import torch

    device = torch.device(f"cuda:{device}") if isinstance(device, int) else torch.device(device)
    self.device = device
    self.comm = self.nccl.ncclCommInitRank(self.world_size, self.unique_id, self.rank)
    with torch.accelerator.device_index(device.index):
        data = torch.zeros(1, device=device)
        self.all_reduce(data)
        torch.cuda.current_stream().synchronize()


def _all_reduce(self: Any, in_tensor: Any, out_tensor: Any = None, op: Any = None, stream: Any = None) -> Any:
    import torch

    if self.disabled:
        return None
    out = torch.empty_like(in_tensor) if out_tensor is None else out_tensor
    self.comm.all_reduce(in_tensor, out, _reduce_name(op), "nccl", _stream(stream))
    return out


def _all_gather(self: Any, output_tensor: Any, input_tensor: Any, stream: Any = None) -> None:
    if not self.disabled:
        _gather_pieces(self, input_tensor, list(output_tensor.view(-1).chunk(self.world_size)), stream)


def _all_gatherv(
    self: Any, output_tensor: Any, input_tensor: Any, sizes: list[int], stream: Any = None
) -> None:
    if not self.disabled:
        _gather_pieces(self, input_tensor, list(output_tensor.split(sizes)), stream)


def _gather_pieces(self: Any, source: Any, pieces: list[Any], stream: Any) -> None:
    if getattr(self, "_batch", None) is not None:
        self._batch.append((source, pieces, stream))
    else:
        self.comm.all_gather([source], [pieces], "nccl", _stream(stream))


def _group_start(self: Any) -> None:
    self._batch = []


def _group_end(self: Any) -> None:
    """What was gathered since group_start is one launch, as NCCL fuses a group."""
    batch, self._batch = self._batch, None
    if batch:
        self.comm.all_gather(
            [source for source, _, _ in batch],
            [pieces for _, pieces, _ in batch],
            "nccl",
            _stream(batch[0][2]),
        )


def _reduce_scatter(
    self: Any, output_tensor: Any, input_tensor: Any, op: Any = None, stream: Any = None
) -> None:
    if not self.disabled:
        pieces = list(input_tensor.view(-1).chunk(self.world_size))
        self.comm.reduce_scatter(pieces, output_tensor, _reduce_name(op), "nccl", _stream(stream))


def _reduce_scatterv(
    self: Any, output_tensor: Any, input_tensor: Any, sizes: list[int], op: Any = None, stream: Any = None
) -> None:
    if not self.disabled:
        self.comm.reduce_scatter(
            list(input_tensor.split(sizes)), output_tensor, _reduce_name(op), "nccl", _stream(stream)
        )


def _reduce(
    self: Any, output_tensor: Any, input_tensor: Any, root: int, op: Any = None, stream: Any = None
) -> None:
    if not self.disabled:
        self.comm.reduce(input_tensor, output_tensor, root, _reduce_name(op), _stream(stream))


def _send(self: Any, tensor: Any, dst: int, stream: Any = None) -> None:
    if not self.disabled:
        self.comm.send(tensor, dst, _stream(stream))


def _recv(self: Any, tensor: Any, src: int, stream: Any = None) -> None:
    if not self.disabled:
        self.comm.recv(tensor, src, _stream(stream))


def _broadcast(self: Any, tensor: Any, src: int, stream: Any = None) -> None:
    if not self.disabled:
        self.comm.broadcast(tensor, src, _stream(stream))


def _patch_pynccl(module: ModuleType) -> None:
    ledger.replace(module, "NCCLLibrary", VirtualNccl, why="there is no libnccl", until=_UNTIL)
    methods: dict[str, Callable[..., Any]] = {
        "_init_comm": _init_comm, "all_reduce": _all_reduce, "reduce": _reduce, "broadcast": _broadcast,
        "all_gather": _all_gather, "all_gatherv": _all_gatherv, "reduce_scatter": _reduce_scatter,
        "reduce_scatterv": _reduce_scatterv, "send": _send, "recv": _recv, "group_start": _group_start,
        "group_end": _group_end,
    }  # fmt: skip
    for name, function in methods.items():
        ledger.replace(
            module.PyNcclCommunicator, name, function, why="launches the virtual collective", until=_UNTIL
        )


# ---- the custom kernels over peer memory


_SIGNAL_BYTES = 2560
"""sizeof(vllm::Signal) in csrc/custom_all_reduce.cuh of vLLM 0.10 to 0.12: 36 blocks of 8 ranks."""


class CustomOps:
    """Stands for `vllm._custom_ops` inside custom_all_reduce.py: peer memory and the kernels that use it."""

    def __init__(self, real: Any) -> None:
        self._real = real
        self._numbers = itertools.count(1)
        self._handles: dict[int, str] = {}
        self._communicators: dict[int, Any] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def meta_size(self) -> int:
        """Bytes of the kernels' signals; an op without a schema, so there is none where it is declared."""
        try:
            return int(self._real.meta_size())
        except AttributeError:
            return _SIGNAL_BYTES

    def allocate_shared_buffer_and_handle(self, size: int) -> tuple[int, str]:
        _outside(size)
        handle = secrets.token_hex(8)
        return self.open_mem_handle(handle), handle

    def open_mem_handle(self, handle: str) -> int:
        pointer = next(self._numbers)
        self._handles[pointer] = handle
        return pointer

    def free_shared_buffer(self, pointer: int) -> None:
        self._handles.pop(pointer, None)

    def init_custom_ar(self, meta_ptrs: list[int], rank_data: Any, rank: int, fully_connected: bool) -> int:
        name = "custom/" + "-".join(self._handles[p] for p in meta_ptrs)
        number = next(self._numbers)
        self._communicators[number] = new_communicator(name, rank, len(meta_ptrs))
        return number

    def dispose(self, pointer: int) -> None:
        self._communicators.pop(pointer, None)

    def register_buffer(self, pointer: int, pointers: list[int]) -> None: ...

    def get_graph_buffer_ipc_meta(self, pointer: int) -> tuple[list[int], list[int]]:
        return [], []

    def register_graph_buffers(
        self, pointer: int, handles: list[list[int]], offsets: list[list[int]]
    ) -> None: ...

    def all_reduce(self, pointer: int, inp: Any, out: Any, buffer: int, size: int) -> None:
        self._communicators[pointer].all_reduce(inp, out, "sum", "custom")

    def custom_all_gather(self, pointer: int, inp: Any, out: Any, *buffers: int) -> None:
        communicator = self._communicators[pointer]
        communicator.all_gather([inp], [list(out.view(-1).chunk(communicator.size))], "custom")

    mnnvl_lamport_all_gather = custom_all_gather

    def custom_reduce_scatter(self, pointer: int, inp: Any, out: Any, *buffers: int) -> None:
        communicator = self._communicators[pointer]
        communicator.reduce_scatter(list(inp.view(-1).chunk(communicator.size)), out, "sum", "custom")

    mnnvl_lamport_reduce_scatter = custom_reduce_scatter
    mnnvl_multimem_reduce_scatter = custom_reduce_scatter


def _init_mnnvl_buffer(self: Any, stage_size: int) -> None:
    if _multicast():
        _outside(6 * stage_size)
        self.mnnvl_multicast_ptr, self.mnnvl_buffer_size = 1, stage_size


def _init_mnnvl_multimem(self: Any) -> None:
    self.mnnvl_multimem_rs_initialized = True
    if self.mnnvl_multimem_rs_supported:
        _outside(self.max_mnnvl_multimem_reduce_scatter_size)
        self.mnnvl_multimem_rs_multicast_ptr = 1


def _patch_custom_all_reduce(module: ModuleType) -> None:
    why = "peer memory of virtual GPUs has no addresses"
    ledger.replace(module, "ops", CustomOps(module.ops), why=why, until=_UNTIL)
    ledger.replace(module, "custom_ar", True, why="the kernels are virtual", until=_UNTIL)
    ledger.replace(
        module,
        "_has_local_multicast_support",
        lambda device: _multicast(),
        why="answered from the GPU spec",
        until=_UNTIL,
    )
    cls = module.CustomAllreduce
    ledger.replace(cls, "_init_mnnvl_buffer", _init_mnnvl_buffer, why=why, until=_UNTIL)
    ledger.replace(
        cls, "_init_mnnvl_multimem_reduce_scatter_buffer", _init_mnnvl_multimem, why=why, until=_UNTIL
    )


# ---- symmetric memory


class SymmetricMemory:
    """Stands for `torch.distributed._symmetric_memory` inside symm_mem.py."""

    def __init__(self) -> None:
        self.communicators: dict[str, Any] = {}

    def empty(self, *size: Any, dtype: Any = None, device: Any = None) -> Any:
        import torch

        return torch.empty(*size, dtype=dtype, device=device)

    def rendezvous(self, tensor: Any, group_name: str) -> Any:
        from torch.distributed.distributed_c10d import _resolve_process_group

        self.communicators[group_name] = _join(_resolve_process_group(group_name), "symm_mem")  # type: ignore[arg-type]
        return SimpleNamespace(multicast_ptr=int(_multicast()))


def _patch_symm_mem(module: ModuleType) -> None:
    memory = SymmetricMemory()

    def all_reduce(self: Any, inp: Any, *, out: Any = None) -> Any:
        import torch

        if not self.should_use_symm_mem(inp):
            return None
        out = torch.empty_like(inp) if out is None else out
        buffer = self.buffer[: inp.numel()]
        buffer.copy_(inp.view(-1))
        memory.communicators[self.group.group_name].all_reduce(buffer, buffer, "sum", "symm_mem")
        out.copy_(buffer.view(out.shape))
        return out

    ledger.replace(
        module, "torch_symm_mem", memory, why="peer memory of virtual GPUs has no addresses", until=_UNTIL
    )
    ledger.replace(
        module.SymmMemCommunicator,
        "all_reduce",
        all_reduce,
        why="launches the virtual collective",
        until=_UNTIL,
    )


# ---- FlashInfer's all-reduce


class FlashInferWorkspace:
    """Stands for FlashInfer's workspace: its size, by FlashInfer's arithmetic, decides which tensors fit."""

    backend = "mnnvl"
    mc_ptr = 1

    def __init__(
        self, world_size: int, max_token_num: int, hidden_dim: int, dtype: Any, communicator: Any
    ) -> None:
        from flashinfer.comm import trtllm_mnnvl_ar as real

        self._required = real.MNNVLAllReduceFusionWorkspace.get_required_buffer_size_bytes
        strategy = real.MNNVLAllreduceFusionStrategy
        one_shot = min(
            real.MNNVL_ONE_SHOT_THRESHOLD // (world_size * dtype.itemsize * hidden_dim), max_token_num
        )
        self.buffer_size_bytes = max(
            self._required(world_size, one_shot, hidden_dim, dtype, strategy.ONESHOT),
            self._required(world_size, max_token_num, hidden_dim, dtype, strategy.TWOSHOT),
        )
        self.communicator = communicator
        _outside(3 * self.buffer_size_bytes)

    def is_buffer_size_sufficient(self, tp_size: int, num_tokens: int, hidden_dim: int, dtype: Any) -> bool:
        return bool(self._required(tp_size, num_tokens, hidden_dim, dtype) <= self.buffer_size_bytes)

    def destroy(self) -> None: ...


def _patch_flashinfer(module: ModuleType) -> None:
    def create(
        backend: str, world_size: int, rank: int, max_token_num: int, hidden_dim: int, dtype: Any, group: Any
    ) -> Any:
        if backend == "mnnvl" and not _multicast():
            return None
        workspace = FlashInferWorkspace(
            world_size, max_token_num, hidden_dim, dtype, _join(group, "flashinfer")
        )
        workspace.backend = backend
        module._fi_ar_workspace_groups[id(workspace)] = group
        return workspace

    def all_reduce(self: Any, input_tensor: Any) -> Any:
        import torch

        workspace = module.get_fi_ar_workspace(
            world_size=self.world_size,
            rank=self.rank,
            max_token_num=self.max_num_tokens,
            hidden_dim=input_tensor.shape[1],
            dtype=input_tensor.dtype,
            group=self.group,
        )
        out = torch.empty_like(input_tensor)
        workspace.communicator.all_reduce(input_tensor, out, "sum", "flashinfer")
        return out

    ledger.replace(
        module, "_create_workspace", create, why="peer memory of virtual GPUs has no addresses", until=_UNTIL
    )
    ledger.replace(
        module.FlashInferAllReduce,
        "all_reduce",
        all_reduce,
        why="launches the virtual collective",
        until=_UNTIL,
    )


_PATCHES: dict[str, Callable[[ModuleType], None]] = {
    _COMM + "pynccl": _patch_pynccl,
    _COMM + "custom_all_reduce": _patch_custom_all_reduce,
    _COMM + "symm_mem": _patch_symm_mem,
    _COMM + "flashinfer_all_reduce": _patch_flashinfer,
    _COMM + "shm_broadcast": ring.patch,
}
