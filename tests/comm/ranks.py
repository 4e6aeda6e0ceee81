"""What each rank of the tests in this folder runs; started by test_collectives.py, one process a rank."""

from __future__ import annotations

import os
import signal
import sys
import time
from typing import Any

import torch
import torch.distributed as dist

IDENTITY = "cuda" if os.environ.get("REVATI_IDENTITY") == "cuda" else "revati"


def start(rank: int, size: int, store: str) -> str:
    """Join the default group; returns this rank's device."""
    if IDENTITY == "revati":
        import revati

        revati.init(gpu="h100_sxm", count=size)
    device = f"{IDENTITY}:{rank}"
    getattr(torch, IDENTITY).set_device(device)
    dist.init_process_group(
        "nccl" if IDENTITY == "cuda" else "revati",
        store=dist.FileStore(store, size),
        rank=rank,
        world_size=size,
    )
    return device


def values(rank: int, size: int, device: str) -> None:
    """Every collective moves live values as NCCL would."""
    mine = torch.arange(4, device=device) + 10 * rank
    everyone = [torch.arange(4) + 10 * r for r in range(size)]
    total = torch.stack(everyone).sum(0)

    x = mine.clone()
    dist.all_reduce(x)
    assert x.tolist() == total.tolist(), x
    x = mine.float()
    dist.all_reduce(x, op=dist.ReduceOp.AVG)
    assert torch.allclose(x.cpu(), total / size)
    x = mine.clone()
    dist.all_reduce(x, op=dist.ReduceOp.MAX)
    assert x.tolist() == everyone[-1].tolist()

    parts = [torch.empty_like(mine) for _ in range(size)]
    dist.all_gather(parts, mine)
    assert [p.tolist() for p in parts] == [e.tolist() for e in everyone]
    whole = torch.empty(4 * size, dtype=mine.dtype, device=device)
    dist.all_gather_into_tensor(whole, mine)
    assert whole.tolist() == torch.cat(everyone).tolist()
    single = torch.empty(4 * size, dtype=mine.dtype, device=device)
    dist.all_gather_single(single, mine)
    assert single.tolist() == whole.tolist()

    out = torch.empty(4, dtype=mine.dtype, device=device)
    dist.reduce_scatter(out, [mine + r for r in range(size)])
    assert out.tolist() == (total + size * rank).tolist()
    dist.reduce_scatter_tensor(out, torch.cat([mine + r for r in range(size)]))
    assert out.tolist() == (total + size * rank).tolist()

    x = mine.clone() if rank == 1 else torch.zeros_like(mine)
    dist.broadcast(x, src=1)
    assert x.tolist() == everyone[1].tolist()
    x = mine.clone()
    dist.reduce(x, dst=0)
    if rank == 0:
        assert x.tolist() == total.tolist()

    gathered = [torch.empty_like(mine) for _ in range(size)] if rank == 0 else None
    dist.gather(mine, gathered, dst=0)
    if gathered is not None:
        assert [g.tolist() for g in gathered] == [e.tolist() for e in everyone]
    dist.scatter(out, [mine + r for r in range(size)] if rank == 0 else None, src=0)
    assert out.tolist() == (everyone[0] + rank).tolist()

    swapped = torch.empty(size, dtype=mine.dtype, device=device)
    dist.all_to_all_single(swapped, torch.arange(size, device=device) + 100 * rank)
    assert swapped.tolist() == [rank + 100 * r for r in range(size)]
    sent = [torch.full((rank + 1,), 10 * rank + r, device=device) for r in range(size)]
    received = [torch.empty(r + 1, dtype=torch.int64, device=device) for r in range(size)]
    dist.all_to_all(received, sent)
    assert [t.tolist() for t in received] == [[10 * r + rank] * (r + 1) for r in range(size)]

    if rank == 0:
        dist.send(mine + 5, dst=1)
    elif rank == 1:
        dist.recv(out, src=0)
        assert out.tolist() == (everyone[0] + 5).tolist()
    ring = torch.empty_like(mine)
    for work in dist.batch_isend_irecv(
        [dist.P2POp(dist.isend, mine, (rank + 1) % size), dist.P2POp(dist.irecv, ring, (rank - 1) % size)]
    ):
        work.wait()
    assert ring.tolist() == everyone[rank - 1].tolist()

    objects: list[Any] = [None] * size
    dist.all_gather_object(objects, {"rank": rank})
    assert objects == [{"rank": r} for r in range(size)]
    dist.barrier()


def phantom(rank: int, size: int, device: str) -> None:
    """Phantom inputs give phantom outputs of the right shape, whatever a single rank knows."""
    from revati import _C

    activation = torch.randn(1024, 4096, device=device, dtype=torch.bfloat16) @ torch.randn(
        4096, 4096, device=device, dtype=torch.bfloat16
    )
    assert not _C.is_live(activation)
    dist.all_reduce(activation)
    whole = torch.empty(1024 * size, 4096, device=device, dtype=torch.bfloat16)
    dist.all_gather_into_tensor(whole, activation)
    assert whole.shape == (1024 * size, 4096) and not _C.is_live(whole)
    one_knows = torch.ones(4, device=device) if rank == 0 else torch.empty(4, device=device)
    _C.mark_phantom(one_knows) if rank else None
    dist.all_reduce(one_knows)
    assert not _C.is_live(one_knows)


def asynchronous(rank: int, size: int, device: str) -> None:
    """A launch does not wait; the collective ends at the latest rank's arrival plus its duration."""
    from revati import _C

    x = torch.empty(64 << 20, device=device)
    dist.all_reduce(x)
    torch.accelerator.synchronize()
    dist.barrier()
    busy_ns = 50_000_000 * (rank + 1)
    begin = _C.now_ns()
    _C.occupy(busy_ns, rank)
    work = dist.all_reduce(x, async_op=True)
    assert not work.is_completed()
    launched = _C.now_ns()
    assert launched - begin < 40_000_000, launched - begin
    work.wait()
    assert _C.now_ns() - begin < 45_000_000
    torch.accelerator.synchronize()
    end = _C.now_ns()
    assert work.is_completed()
    moments: list[Any] = [None] * size
    dist.all_gather_object(moments, (begin, end))
    latest = max(b + 50_000_000 * (r + 1) for r, (b, _) in enumerate(moments))
    assert all(latest < e < latest + 30_000_000 for _, e in moments), moments


def late(rank: int, size: int, device: str) -> None:
    """To receive does not wait for the sender; what was sent is there for whoever looks."""
    store = dist.distributed_c10d._get_default_store()
    dist.barrier()
    number = torch.tensor([3, 1, 4, 1], device=device)
    if rank == 0:
        first, second, whole = (torch.zeros(4, dtype=torch.int64, device=device) for _ in range(3))
        half = torch.zeros(2, dtype=torch.int64, device=device)
        dist.broadcast(first, src=1)
        dist.broadcast(second, src=1)
        dist.recv(half, src=1)
        work = dist.broadcast(whole[1:3], src=1, async_op=True)
        dist.broadcast(torch.empty(4, dtype=torch.int64, device=device), src=1)  # nobody will look
        store.set("launched", "yes")
        assert (second + 1).tolist() == [4, 2, 5, 2] and first.tolist() == [6, 2, 8, 2]
        work.wait()
        assert whole.tolist() == [0, 3, 1, 0] and half.tolist() == [3, 1]
        first.zero_()
        assert first.tolist() == [0, 0, 0, 0]
    else:
        store.wait(["launched"])
        dist.broadcast(number * 2, src=1)
        dist.broadcast(number, src=1)
        dist.send(number[:2].clone(), dst=0)
        dist.broadcast(number[:2].clone(), src=1)
        dist.broadcast(number, src=1)

    # More than a sender keeps, and more than a receiver may leave unread.
    many, kept = 400, {}
    for k in range(many):
        x = torch.full((4096,), k if rank == 1 else 0, device=device)
        dist.broadcast(x, src=1)
        if k % 7 == 0:
            kept[k] = x
        if rank == 0 and k % 50 == 25:
            assert x.sum().item() == 4096 * k
    for k, x in kept.items():
        assert x.unique().tolist() == [k]
    unknown = torch.ones(4, device=device)
    if rank == 1:
        from revati import _C

        _C.mark_phantom(unknown)
    dist.broadcast(unknown, src=1)
    if rank == 0:
        from revati import _C

        assert not _C.is_live(unknown)
    dist.barrier()


def graphs(rank: int, size: int, device: str) -> None:
    """A captured collective meets the other ranks at every replay."""
    from revati import _C

    module = getattr(torch, IDENTITY)
    x = torch.empty(1 << 20, device=device)
    _C.mark_phantom(x)
    dist.all_reduce(x)
    graph = module.CUDAGraph()
    with module.graph(graph):
        for _ in range(3):
            x = x * 2
            dist.all_reduce(x)
    ends = []
    for _ in range(3):
        _C.occupy(1_000_000 * (rank + 1), rank)
        graph.replay()
        torch.accelerator.synchronize()
        ends.append(_C.now_ns())
    assert ends[0] < ends[1] < ends[2]


def death(rank: int, size: int, device: str) -> None:
    """The last rank dies; the others say so within five seconds."""
    dist.barrier()
    if rank == size - 1:
        os.kill(os.getpid(), signal.SIGKILL)
    x = torch.ones(4, device=device)
    started = time.monotonic()
    try:
        dist.all_reduce(x)
        torch.accelerator.synchronize()
    except RuntimeError as error:
        assert f"rank {size - 1} of {size}" in str(error) and "died" in str(error), error
        assert time.monotonic() - started < 5
        print("noticed")
        return
    raise AssertionError("nobody noticed")


if __name__ == "__main__":
    case, number, count, where = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    its_device = start(number, count, where)
    cases = (values, phantom, asynchronous, late, graphs, death)
    {f.__name__: f for f in cases}[case](number, count, its_device)
    print(f"rank {number} ok", flush=True)
    os._exit(0) if case == "death" else dist.destroy_process_group()
