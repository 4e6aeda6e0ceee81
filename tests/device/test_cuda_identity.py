"""The cuda identity in a process of its own: `torch.cuda` as programs know it, and the errors they meet."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import revati

BOOT = str(Path(revati.__file__).parent / "boot")
ROOT = str(Path(revati.__file__).parents[1])  # the code under test, not another installation


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {
        **os.environ,
        "REVATI_IDENTITY": "cuda",
        "REVATI_GPUS": "2",
        "REVATI_LATENCY": "roofline",
        "PYTHONPATH": os.pathsep.join((BOOT, ROOT)),
        **environment,
    }
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], env=env, capture_output=True, text=True, timeout=120
    )


def passes(code: str, **environment: str) -> None:
    done = run(code, **environment)
    assert done.returncode == 0, done.stderr[-3000:]


def test_torch_cuda_is_there_and_tensors_live_on_it() -> None:
    passes("""
        import torch
        assert torch.cuda.is_available() and torch.cuda.device_count() == 2
        assert torch.cuda.get_device_capability() == (9, 0)
        assert "H100" in torch.cuda.get_device_name(0)
        x = torch.arange(4, device="cuda")
        assert x.is_cuda and str(x.device) == "cuda:0" and (x * 2).tolist() == [0, 2, 4, 6]
        assert torch.empty(2).cuda(1).get_device() == 1
        with torch.cuda.device(1):
            assert torch.cuda.current_device() == 1
        assert torch.accelerator.current_accelerator().type == "cuda"
    """)


def test_streams_events_and_graphs_are_torch_cudas_own() -> None:
    passes("""
        import torch
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        side = torch.cuda.Stream()
        with torch.cuda.stream(side):
            begin.record(); torch.cuda._sleep(10_000_000); end.record()
        end.synchronize()
        assert 3 < begin.elapsed_time(end) < 10
        x = torch.ones(8, device="cuda")
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            y = x * 3
        x.fill_(2)
        graph.replay()
        assert y.tolist() == [6.0] * 8
        layer = torch.nn.Linear(4, 4).cuda()
        f = torch.cuda.make_graphed_callables(layer, (torch.ones(2, 4, device="cuda"),))
        assert f(torch.ones(2, 4, device="cuda")).shape == (2, 4)
    """)


def test_memory_statistics_and_the_out_of_memory_error() -> None:
    passes("""
        import torch
        x = torch.empty(1 << 30, dtype=torch.uint8, device="cuda")
        assert torch.cuda.memory_allocated() == 1 << 30
        assert torch.cuda.max_memory_reserved() >= 1 << 30
        free, total = torch.cuda.mem_get_info()
        assert total - free > 1 << 30
        try:
            torch.empty(100 << 30, dtype=torch.uint8, device="cuda")
        except torch.cuda.OutOfMemoryError as error:
            assert "CUDA out of memory. Tried to allocate 100.00 GiB" in str(error)
        else:
            raise AssertionError("100 GiB fit")
    """)


def test_fork_after_init_is_refused() -> None:
    passes("""
        import os, torch
        torch.ones(1, device="cuda")
        pid = os.fork()
        if pid == 0:
            try:
                torch.ones(1, device="cuda")
            except RuntimeError as error:
                os._exit(0 if "forked subprocess" in str(error) else 2)
            os._exit(1)
        assert os.waitpid(pid, 0)[1] == 0
    """)


def test_an_unknown_gpu_is_one_line() -> None:
    done = run("import torch", REVATI_GPU="h900")
    assert done.returncode != 0
    assert "h900" in done.stderr.strip().splitlines()[-1]


def test_the_explicit_identity_is_refused_in_a_cuda_process() -> None:
    done = run("import revati; revati.init()")
    assert done.returncode != 0
    assert "presents the virtual GPU as cuda" in done.stderr.strip().splitlines()[-1]


def test_a_training_step() -> None:
    passes("""
        import torch
        layers = torch.nn.Linear(4096, 4096), torch.nn.SiLU(), torch.nn.Linear(4096, 16)
        model = torch.nn.Sequential(*layers).cuda()
        optimiser = torch.optim.AdamW(model.parameters())
        with torch.autocast("cuda", dtype=torch.bfloat16):
            loss = model(torch.randn(8, 4096, device="cuda")).float().square().mean()
        loss.backward(); optimiser.step()
        assert all(p.grad is not None for p in model.parameters())
    """)
