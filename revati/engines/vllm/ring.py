"""How readers of vLLM's shared-memory ring wait for its writer.

On a real machine they spin on the ring. Two sides that spin at each other never let virtual time pass, so
here a reader sleeps until the writer rings a bell: a word in shared memory that counts what was written. Like
a reader that spins, it goes on at the moment of the write, and is charged nothing for its wake-up.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from pathlib import Path
from types import ModuleType
from typing import Any

from revati import _C
from revati.cuda import ledger
from revati.engines.vllm import folding

_WHY = "two sides that spin on shared memory never let virtual time pass"
_UNTIL = "never: vLLM's other way, a ZMQ socket, takes four switches of threads for each message"
_LOOK_MS = 1000  # at whether a wait was cancelled


class Bell:
    """A counter that processes of one run share, and wait on.

    Args:
        address: of the ring's notification socket, one for each ring and the same in all its processes.
    """

    def __init__(self, address: str) -> None:
        path = Path(os.environ["REVATI_RUN_DIR"]) / f"ring-{address.rpartition('/')[2]}"
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(descriptor, mmap.PAGESIZE)
            self._memory = mmap.mmap(descriptor, mmap.PAGESIZE)
        finally:
            os.close(descriptor)
        self._count = ctypes.c_uint32.from_buffer(self._memory)
        self._address = ctypes.addressof(self._count)
        self._seen = self._count.value
        shim = ctypes.CDLL(None)
        self._await, self._bump = shim.revati_warp_await_word, shim.revati_warp_bump_word
        self._await.argtypes = [ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int64]
        self._bump.argtypes = [ctypes.c_void_p]
        self._bump.restype = None

    def ring(self) -> None:
        """Wake all that wait."""
        self._bump(self._address)

    def wait(self, timeout_ms: int | None) -> None:
        """Return when it has rung since the last wait, at a signal, or at the timeout."""
        if self._count.value == self._seen:
            self._await(self._address, self._seen, -1 if timeout_ms is None else timeout_ms * 1_000_000)
        self._seen = self._count.value


def patch(module: ModuleType) -> None:
    """`vllm.distributed.device_communicators.shm_broadcast`: readers wait for a bell instead of spinning.

    Not outside a run, where time passes by itself.
    """
    if folding.enabled():
        folding.patch_ring(module)
    if not _C.shared_clock():
        return
    if not hasattr(module, "SpinCondition"):
        _patch_timer(module)
        return
    condition = module.SpinCondition
    begin = condition.__init__

    def __init__(self: Any, *args: Any, notify_address: str, **kwargs: Any) -> None:
        begin(self, *args, notify_address=notify_address, **kwargs)
        self.bell = Bell(notify_address)

    def wait(self: Any, timeout_ms: int | None = None) -> None:
        self.bell.wait(timeout_ms)

    def ring(self: Any) -> None:
        self.bell.ring()

    ledger.replace(condition, "__init__", __init__, why=_WHY, until=_UNTIL)
    ledger.replace(condition, "wait", wait, why=_WHY, until=_UNTIL)
    ledger.replace(condition, "notify", ring, why=_WHY, until=_UNTIL)
    ledger.replace(condition, "cancel", ring, why=_WHY, until=_UNTIL)
    ledger.replace(module, "SPINLOOP_EXT_ENABLED", False, why=_WHY, until=_UNTIL)


class BellTimer:
    """Stands for the `SpinTimer` of a ring before vLLM 0.13, which spins once for each look."""

    def __init__(self, bell: Bell) -> None:
        self._bell = bell

    def record_activity(self) -> None: ...

    def spin(self) -> None:
        """Return once there may be something to read."""
        self._bell.wait(_LOOK_MS)


def _patch_timer(module: ModuleType) -> None:
    queue = module.MessageQueue
    begin, create, enqueue = queue.__init__, queue.create_from_handle, queue.enqueue

    def bell_of(handle: Any) -> Bell | None:
        return Bell(handle.buffer_handle[3]) if handle.buffer_handle else None

    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        begin(self, *args, **kwargs)
        self.bell = bell_of(self.handle)

    def create_from_handle(handle: Any, rank: int) -> Any:
        reader = create(handle, rank)
        if bell := bell_of(handle):
            reader._read_spin_timer = BellTimer(bell)
        return reader

    def enqueue_and_ring(self: Any, *args: Any, **kwargs: Any) -> None:
        enqueue(self, *args, **kwargs)
        if self.bell is not None:
            self.bell.ring()

    ledger.replace(queue, "__init__", __init__, why=_WHY, until=_UNTIL)
    ledger.replace(queue, "create_from_handle", staticmethod(create_from_handle), why=_WHY, until=_UNTIL)
    ledger.replace(queue, "enqueue", enqueue_and_ring, why=_WHY, until=_UNTIL)
