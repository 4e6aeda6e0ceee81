"""`torch.compile` on the virtual GPU: traced, run eagerly, said once."""

from __future__ import annotations

import logging

import pytest
import torch

from revati import _C
from revati.cuda import compile_fallback


@pytest.fixture(autouse=True)
def fresh() -> None:
    torch._dynamo.reset()
    compile_fallback._told.clear()


def test_results_are_eager_ones_and_one_line_says_so(caplog: pytest.LogCaptureFixture) -> None:
    @torch.compile
    def f(x: torch.Tensor) -> torch.Tensor:
        return (x * 2 + 1).relu()

    with caplog.at_level(logging.WARNING, "revati"):
        assert f(torch.arange(-2, 2, device="revati:0").float()).tolist() == [0.0, 0.0, 1.0, 3.0]
        assert f(torch.ones(7, device="revati:0")).tolist() == [3.0] * 7
    assert [r.getMessage() for r in caplog.records if r.name == "revati"] == [
        "revati: torch.compile traces, and runs eagerly: inductor generates code for real GPUs only"
    ]


@pytest.mark.parametrize("options", [{"fullgraph": True}, {"dynamic": True}, {"mode": "reduce-overhead"}])
def test_a_module_trains_compiled(options: dict[str, object]) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.GELU(), torch.nn.Linear(8, 1)).to("revati:0")
    compiled = torch.compile(model, **options)
    before = _C.launches()
    compiled(torch.randn(4, 8, device="revati:0")).sum().backward()
    assert _C.launches() - before >= 6
    assert all(p.grad is not None for p in model.parameters())


def test_graphs_without_the_device_are_left_to_inductor(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch._inductor.compile_fx as inductor

    seen = []
    monkeypatch.setattr(
        inductor, "compile_fx", lambda model, inputs, **kwargs: seen.append(model) or model.forward
    )
    assert torch.compile(lambda x: x + 1)(torch.ones(2)).tolist() == [2.0, 2.0]
    assert seen
