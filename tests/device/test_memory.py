"""Memory of the virtual GPU: address space without backing, CUDA's statistics, CUDA's out-of-memory error."""

from __future__ import annotations

import copy
import io
import pickle
import resource

import pytest
import torch

from revati import _C

GIB = 1 << 30
MIB = 1 << 20


def stats(device: int = 0) -> dict[str, int]:
    return torch.revati.memory_stats(device)  # type: ignore[attr-defined]


def test_weights_of_140_gb_take_no_host_memory() -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    parts = [torch.empty(35 * GIB, dtype=torch.uint8, device=f"revati:{i % 2}") for i in range(4)]
    assert sum(p.numel() for p in parts) == 140 * GIB
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < 64 * MIB


def test_out_of_memory_says_what_cuda_says() -> None:
    with pytest.raises(
        torch.OutOfMemoryError,
        match=r"CUDA out of memory\. Tried to allocate 200\.00 GiB\. GPU 0 has a total capacity",
    ):
        torch.empty(200 * GIB, dtype=torch.uint8, device="revati:0")
    assert torch.zeros(4, device="revati:0").tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize(
    ("requested", "allocated"),
    [(1, 512), (512, 512), (513, 1024), (MIB, MIB), (3 * MIB, 3 * MIB), (10 * MIB + 1, 10 * MIB + 512)],
)
def test_sizes_are_rounded_as_by_cudas_caching_allocator(requested: int, allocated: int) -> None:
    before = stats()["allocated_bytes.all.current"]
    tensor = torch.empty(requested, dtype=torch.uint8, device="revati:0")
    assert stats()["allocated_bytes.all.current"] - before == allocated
    del tensor
    assert stats()["allocated_bytes.all.current"] == before


def test_a_share_of_the_gpu_is_a_limit() -> None:
    torch.revati.empty_cache()  # type: ignore[attr-defined]
    torch.revati.set_per_process_memory_fraction(0.25, 1)  # type: ignore[attr-defined]
    try:
        with pytest.raises(
            torch.OutOfMemoryError, match=r"Tried to allocate 30\.00 GiB.* 19\.\d\d GiB allowed; "
        ):
            torch.empty(30 * GIB, dtype=torch.uint8, device="revati:1")
    finally:
        torch.revati.set_per_process_memory_fraction(1.0, 1)  # type: ignore[attr-defined]
    torch.empty(30 * GIB, dtype=torch.uint8, device="revati:1")
    with pytest.raises(RuntimeError, match="invalid fraction"):
        torch.revati.set_per_process_memory_fraction(1.5)  # type: ignore[attr-defined]


def test_unused_parts_of_segments_are_counted() -> None:
    torch.revati.empty_cache()  # type: ignore[attr-defined]
    before = stats(1)["inactive_split_bytes.all.current"]
    first = torch.empty(12 * MIB, dtype=torch.uint8, device="revati:1")  # a segment of its own
    assert stats(1)["inactive_split_bytes.all.current"] == before
    second = torch.empty(4 * MIB, dtype=torch.uint8, device="revati:1")  # cut from a segment of 20 MiB
    assert stats(1)["inactive_split_bytes.all.current"] - before == 16 * MIB
    third = torch.empty(16 * MIB, dtype=torch.uint8, device="revati:1")
    assert stats(1)["inactive_split_bytes.all.current"] == before
    del second
    assert stats(1)["inactive_split_bytes.all.current"] - before == 4 * MIB
    del first, third


def test_reserved_memory_is_kept_until_the_cache_is_emptied() -> None:
    torch.revati.empty_cache()  # type: ignore[attr-defined]
    before = stats()["reserved_bytes.all.current"]
    tensor = torch.empty(100 * MIB, dtype=torch.uint8, device="revati:0")
    assert stats()["reserved_bytes.all.current"] - before == 100 * MIB
    del tensor
    assert stats()["reserved_bytes.all.current"] - before == 100 * MIB
    torch.revati.empty_cache()  # type: ignore[attr-defined]
    assert stats()["reserved_bytes.all.current"] == before


def test_peaks_are_reset_to_the_present() -> None:
    torch.empty(64 * MIB, dtype=torch.uint8, device="revati:0")
    torch.revati.reset_peak_memory_stats()  # type: ignore[attr-defined]
    assert stats()["allocated_bytes.all.peak"] == stats()["allocated_bytes.all.current"]


def test_free_memory_falls_by_what_is_reserved() -> None:
    torch.revati.empty_cache()  # type: ignore[attr-defined]
    free, total = torch.revati.mem_get_info(1)  # type: ignore[attr-defined]
    tensor = torch.empty(GIB, dtype=torch.uint8, device="revati:1")
    assert torch.revati.mem_get_info(1) == (free - GIB, total)  # type: ignore[attr-defined]
    del tensor


def test_neighbours_coalesce_into_one_block() -> None:
    torch.revati.empty_cache()  # type: ignore[attr-defined]
    first = [torch.empty(2 * MIB, dtype=torch.uint8, device="revati:0") for _ in range(10)]
    segments = stats()["segment.all.current"]
    del first
    whole = torch.empty(19 * MIB, dtype=torch.uint8, device="revati:0")
    assert stats()["segment.all.current"] == segments
    del whole


def test_storage_resize_keeps_live_values() -> None:
    tensor = torch.arange(4, device="revati:0")
    tensor.untyped_storage().resize_(64)
    assert tensor.tolist() == [0, 1, 2, 3]
    tensor.untyped_storage().resize_(0)
    assert tensor.untyped_storage().nbytes() == 0


def test_resize_and_out_arguments_grow_the_storage() -> None:
    tensor = torch.empty(0, device="revati:0")
    torch.add(torch.ones(3, 4, device="revati:0"), 1, out=tensor)
    assert tensor.shape == (3, 4)
    assert tensor.tolist() == [[2.0] * 4] * 3
    assert tensor.resize_(6, 7).shape == (6, 7)


def test_pinned_memory_is_host_memory_and_says_so() -> None:
    pinned = torch.arange(8).pin_memory()
    assert pinned.is_pinned()
    assert pinned.device.type == "cpu"
    assert pinned.to("revati:0", non_blocking=True).tolist() == list(range(8))


@pytest.mark.parametrize("how", ["deepcopy", "pickle", "save"])
def test_live_tensors_survive_copies(how: str) -> None:
    tensor = torch.arange(12, device="revati:1").view(3, 4)[:, 1:]
    if how == "deepcopy":
        again = copy.deepcopy(tensor)
    elif how == "pickle":
        again = pickle.loads(pickle.dumps(tensor))
    else:
        buffer = io.BytesIO()
        torch.save(tensor, buffer)
        buffer.seek(0)
        again = torch.load(buffer)
    assert again.device == tensor.device
    assert again.tolist() == tensor.tolist()


def test_a_device_that_does_not_exist_is_one_clear_line() -> None:
    with pytest.raises(RuntimeError, match=r"invalid device ordinal: device 7 of 2 virtual GPU"):
        torch.empty(1, device="revati:7")


def test_private_pools_do_not_share_blocks() -> None:
    torch.revati.empty_cache()  # type: ignore[attr-defined]
    outside = torch.empty(MIB, dtype=torch.uint8, device="revati:0")
    address = outside.data_ptr()
    del outside
    before = _C.exchange_pool(_C.new_pool_id(True))
    try:
        inside = torch.empty(MIB, dtype=torch.uint8, device="revati:0")
        assert inside.data_ptr() != address
    finally:
        _C.exchange_pool(before)
