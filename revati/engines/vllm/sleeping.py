"""Sleep mode: vLLM's allocator over CUDA's virtual memory, of which there is none, as bookkeeping.

`CuMemAllocator` unmaps what lies under tensors and maps it again. Here the tensors stay as they are; the
virtual GPU counts their bytes as free while they sleep, and moving them to the host and back costs its time.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from revati.cuda import ledger


class VirtualAllocator:
    """Stands for `CuMemAllocator`. Bytes are kept by tag; a tag sleeps as a whole."""

    instance: VirtualAllocator | None = None
    default_tag = "default"

    def __init__(self) -> None:
        self._bytes: dict[str, int] = {}
        self._asleep: dict[str, bool] = {}  # tag: whether the host keeps a copy
        self._inner_bytes: list[int] = []  # for each pool that is in use: what pools inside of it took
        self._graph_pool: Any = None

    @classmethod
    def get_instance(cls) -> VirtualAllocator:
        """The one of this process."""
        if cls.instance is None:
            cls.instance = cls()
        return cls.instance

    @contextmanager
    def use_memory_pool(self, tag: str | None = None) -> Iterator[None]:
        """What is allocated inside, and still is at the end, belongs to `tag`; pools may be nested."""
        import torch

        before = torch.cuda.memory_allocated()
        self._inner_bytes.append(0)
        try:
            yield
        finally:
            taken = max(0, torch.cuda.memory_allocated() - before)
            own = max(0, taken - self._inner_bytes.pop())
            if self._inner_bytes:
                self._inner_bytes[-1] += taken
            tag = tag or self.default_tag
            self._bytes[tag] = self._bytes.get(tag, 0) + own

    @contextmanager
    def cudagraph_pool(self) -> Iterator[Any]:
        """Graphs are captured into one pool of their own."""
        import torch

        if self._graph_pool is None:
            self._graph_pool = torch.cuda.graph_pool_handle()
        with self.use_memory_pool("cudagraph"):
            yield self._graph_pool

    def sleep(self, offload_tags: tuple[str, ...] | str | None = None) -> None:
        """Free all memory; that of `offload_tags` is copied to the host first."""
        kept = (offload_tags,) if isinstance(offload_tags, str) else offload_tags or (self.default_tag,)
        for tag in self._bytes:
            self._put_to_sleep(tag, keep=tag in kept)

    def discard(self, tags: tuple[str, ...] | str) -> None:
        """Free the memory of these tags, without a copy."""
        for tag in (tags,) if isinstance(tags, str) else tags:
            self._put_to_sleep(tag, keep=False)

    def wake_up(self, tags: list[str] | None = None) -> None:
        """Take the memory of these tags (None: of all) again, and copy back what the host keeps."""
        import torch
        from vllm.device_allocator import DEFERRABLE_TAGS

        for tag, kept in list(self._asleep.items()):
            if tags is not None and tag not in tags and tag in DEFERRABLE_TAGS:
                continue
            size = self._bytes[tag]
            free = torch.cuda.mem_get_info()[0]
            if size > free:
                raise torch.OutOfMemoryError(f"CUDA out of memory. {tag} needs {size} of {free} free bytes")
            del self._asleep[tag]
            _take(size)
            if kept:
                _copy("copy::h2d", size)

    def get_current_usage(self) -> int:
        """Bytes that are awake."""
        return sum(size for tag, size in self._bytes.items() if tag not in self._asleep)

    def release_pools(self) -> None:
        """Nothing has to be released."""

    close = release_pools

    def _put_to_sleep(self, tag: str, keep: bool) -> None:
        if tag in self._asleep or not self._bytes.get(tag):
            return
        if keep:
            _copy("copy::d2h", self._bytes[tag])
        self._asleep[tag] = keep
        _take(-self._bytes[tag])


def _take(size: int) -> None:
    import torch

    from revati import _C

    _C.memory_outside(torch.cuda.current_device(), size)


def _copy(name: str, size: int) -> None:
    """A copy of so many bytes that the host waits for."""
    import torch

    from revati import _C

    block = torch.empty(size, dtype=torch.uint8, device="meta")
    _C.launch(name, ["dst", "src"], block, block, device=torch.cuda.current_device())
    torch.cuda.synchronize()


def patch_allocator(module: ModuleType) -> None:
    """`vllm.device_allocator.cumem`."""
    ledger.replace(
        module,
        "CuMemAllocator",
        VirtualAllocator,
        why="memory of virtual GPUs cannot be unmapped",
        until="never: it stands for the hardware",
    )


PATCHES = {"vllm.device_allocator.cumem": patch_allocator}
