"""Live and phantom: which tensors have values, and what the host reads where there are none."""

from __future__ import annotations

import pytest
import torch

from revati import _C


def phantom(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    tensor = torch.empty(*shape, dtype=dtype, device="revati:0")
    _C.mark_phantom(tensor)
    return tensor


@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.arange(5, device="revati:0"),
        lambda: torch.zeros(5, device="revati:0"),
        lambda: torch.tensor([1, 2], device="revati:0"),
        lambda: torch.ones(4, device="revati:0").cumsum(0) * 2,
        lambda: torch.arange(10, device="revati:0")[3:7].clone(),
    ],
)
def test_live_values_and_what_follows_from_them(make) -> None:  # type: ignore[no-untyped-def]
    assert _C.is_live(make())


def test_live_arithmetic_is_right() -> None:
    lengths = torch.tensor([3, 1, 2], device="revati:0")
    starts = torch.zeros(4, dtype=torch.int64, device="revati:0")
    starts[1:] = lengths.cumsum(0)
    assert starts.tolist() == [0, 3, 4, 6]
    positions = torch.arange(6, device="revati:0") - torch.repeat_interleave(
        starts[:-1], lengths, output_size=6
    )
    assert positions.tolist() == [0, 1, 2, 0, 0, 1]


def test_what_follows_from_a_phantom_is_phantom() -> None:
    assert not _C.is_live(phantom(4, 4) @ torch.ones(4, 4, device="revati:0"))
    x = torch.zeros(4, device="revati:0")
    x += phantom(4)
    assert not _C.is_live(x)


def test_large_results_are_phantom() -> None:
    assert not _C.is_live(torch.zeros(64 << 20, device="revati:0"))


def test_a_phantom_integer_reads_as_the_token_id() -> None:
    sampled = phantom(3, 50).argmax(-1)
    assert sampled.tolist() == [_C.token_id()] * 3
    assert sampled[0].item() == _C.token_id()


def test_positions_found_in_a_phantom_exist() -> None:
    token = _C.token_id()
    _C.set_token_id(5000)
    try:
        assert phantom(2, 32_000).argmax(-1).tolist() == [5000, 5000]
        assert phantom(2, 3).argmax(-1).tolist() == [5000 % 3] * 2
        assert phantom(4, 1).max(-1).indices.tolist() == [0] * 4
        assert phantom(3, 5).sort(-1).indices.tolist() == [list(range(5))] * 3
        assert phantom(2, 32_000).topk(3).indices.tolist() == [[5000, 5001, 5002]] * 2
        assert phantom(4, 3).sort(0).indices.tolist() == [[row] * 3 for row in range(4)]
    finally:
        _C.set_token_id(token)


def test_a_router_of_phantoms_is_balanced() -> None:
    chosen = phantom(64, 8).topk(2).indices
    assert all(a != b for a, b in chosen.tolist())
    assert chosen.flatten().cpu().bincount(minlength=8).tolist() == [16] * 8


def test_a_phantom_float_reads_as_zero_and_a_bool_as_false() -> None:
    assert phantom(2).tolist() == [0.0, 0.0]
    assert (phantom(2) > 0).tolist() == [False, False]


def test_a_solver_on_phantom_values_does_not_fail() -> None:
    assert torch.linalg.inv(phantom(3, 3)).shape == (3, 3)
    assert torch.linalg.cholesky(phantom(3, 3)).shape == (3, 3)


@pytest.mark.parametrize(
    "call", [torch.nonzero, lambda x: x[x > 0], lambda x: torch.masked_select(x, x > 0), torch.unique]
)
def test_data_dependent_shapes_of_phantoms_are_refused(call) -> None:  # type: ignore[no-untyped-def]
    x = phantom(1 << 17)
    with pytest.raises(RuntimeError, match="depends on values that a virtual GPU does not compute"):
        call(x)


def test_data_dependent_shapes_of_live_values_are_right() -> None:
    x = torch.tensor([0, 3, 0, 5], device="revati:0")
    assert x.nonzero().flatten().tolist() == [1, 3]
    assert x[x > 0].tolist() == [3, 5]


def test_print_of_a_phantom_says_so() -> None:
    assert "phantom" in repr(phantom(2, 2))
    assert "revati:0" in repr(phantom(2, 2))


def test_print_of_a_live_tensor_shows_its_values() -> None:
    assert repr(torch.arange(3, device="revati:0")) == "tensor([0, 1, 2], device='revati:0')"


def test_print_shows_dtype_and_autograd_as_torch_does() -> None:
    assert repr(torch.ones(1, dtype=torch.int32, device="revati:0")) == (
        "tensor([1], device='revati:0', dtype=torch.int32)"
    )
    x = torch.ones(1, device="revati:0", requires_grad=True)
    assert repr(x) == "tensor([1.], device='revati:0', requires_grad=True)"
    assert repr(x * 2) == "tensor([2.], device='revati:0', grad_fn=<MulBackward0>)"


def test_mixing_devices_is_refused() -> None:
    a = torch.ones(2, device="revati:0")
    with pytest.raises(
        RuntimeError,
        match="but found at least two devices, revati:0 and revati:1",
    ):
        a + torch.ones(2, device="revati:1")
    with pytest.raises(RuntimeError, match="revati:0 and cpu"):
        a + torch.ones(2)
    assert (a + torch.tensor(1.0)).tolist() == [2.0, 2.0]


def test_conj_and_neg_views_copy_their_values() -> None:
    z = torch.tensor([1 + 2j, 3 - 1j])
    assert z.to("revati:0").conj().cpu().tolist() == z.conj().tolist()
    assert z.to("revati:0").conj().imag.clone().tolist() == z.conj().imag.tolist()


@pytest.mark.parametrize(
    "write",
    [
        lambda x: x.index_put_(
            (torch.tensor([0, 2], device=x.device),), torch.tensor([7, 8], device=x.device)
        ),
        lambda x: x.scatter_(0, torch.tensor([1, 3], device=x.device), torch.tensor([7, 8], device=x.device)),
        lambda x: x.view(2, 2)[1].add_(5),
        lambda x: x[1:].mul_(2),
        lambda x: x.copy_(torch.tensor(9, device=x.device)),
    ],
)
def test_writes_in_place_and_through_views(write) -> None:  # type: ignore[no-untyped-def]
    device, host = torch.arange(4, device="revati:0"), torch.arange(4)
    write(device)
    write(host)
    assert device.tolist() == host.tolist()


def test_zero_size_tensors() -> None:
    x = torch.empty(0, 3, 3, device="revati:0")
    assert x.copy_(torch.eye(3, device="revati:0")).shape == (0, 3, 3)
    assert (x @ x).shape == (0, 3, 3)
    with pytest.raises(RuntimeError):
        x.copy_(torch.ones(2, device="revati:0"))


def test_a_seed_fixes_live_random_numbers() -> None:
    generator = torch.Generator(device="revati:0")
    draws = [torch.rand(4, device="revati:0", generator=generator.manual_seed(5)).tolist() for _ in range(2)]
    assert draws[0] == draws[1]
    assert torch.rand(4, device="revati:0", generator=generator).tolist() != draws[0]


def test_foreach_ops() -> None:
    xs = [torch.ones(2, device="revati:0"), torch.zeros(3, device="revati:0")]
    assert [t.tolist() for t in torch._foreach_add(xs, 1.0)] == [[2.0, 2.0], [1.0, 1.0, 1.0]]


def test_sparse_tensors_are_refused_in_one_line() -> None:
    with pytest.raises(NotImplementedError, match="the virtual GPU has dense tensors only"):
        torch.eye(3, device="revati:0").to_sparse()


def test_layer_norm_is_one_launch() -> None:
    x = torch.ones(4, 8, device="revati:0")
    before = _C.launches()
    torch.nn.functional.layer_norm(x, (8,))
    assert _C.launches() - before == 1


def test_backward_and_an_optimiser_step() -> None:
    layer = torch.nn.Linear(4, 4).to("revati:0")
    weight = layer.weight.detach().cpu().clone()
    optimiser = torch.optim.AdamW(layer.parameters(), lr=0.1)
    layer(torch.ones(2, 4, device="revati:0")).square().sum().backward()
    assert layer.weight.grad is not None and layer.weight.grad.shape == (4, 4)
    optimiser.step()
    assert not torch.equal(layer.weight.detach().cpu(), weight)
