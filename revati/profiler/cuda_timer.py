"""The real timer: vLLM's kernels and cuBLAS on a CUDA device, timed by events over graph replays."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from revati.profiler.measure import MeasurementError
from revati.profiler.shapes import Shape

FLUSH_BYTES = 256 * 2**20
BLOCK_SIZE = 16
HOST_LAUNCHES = 200


class CudaTimer:
    """Times ops on `device`. Raises MeasurementError where there is no real GPU."""

    def __init__(self, device: int = 0) -> None:
        import torch

        if torch.version.cuda is None or not torch.cuda.is_available():
            raise MeasurementError(
                "collect needs a real NVIDIA GPU and a CUDA build of PyTorch; none is here"
            )
        self.torch = torch
        self.device = torch.device("cuda", device)
        torch.cuda.set_device(self.device)
        self.gpu_name = torch.cuda.get_device_name(device)
        self._flush = torch.empty(FLUSH_BYTES, dtype=torch.int8, device=self.device)

    def prepare(self, shape: Shape) -> Callable[[], None]:
        """Allocate and warm up one op."""
        try:
            launch = getattr(self, f"_{shape['family']}")(shape)
            for _ in range(3):
                launch()
            self.torch.cuda.synchronize()
        except (RuntimeError, ImportError, AttributeError, NotImplementedError) as error:
            raise MeasurementError(f"{shape}: {str(error).splitlines()[0]:.120}") from None
        result: Callable[[], None] = launch
        return result

    def graph_ns(self, launch: Callable[[], None], repeats: int, cold: bool) -> list[float]:
        """Each replay times several launches; cold: L2 is flushed before each, and that time taken off."""
        calls = 4 if cold else 20
        with_op = self._captured([self._flush.zero_, launch] * calls if cold else [launch] * calls)
        without = self._captured([self._flush.zero_] * calls) if cold else None
        times = []
        for _ in range(repeats):
            spent = self._event_ns(with_op)
            if without is not None:
                spent -= self._event_ns(without)
            times.append(max(spent / calls, 100.0))
        return times

    def host_launch_ns(self, launch: Callable[[], None]) -> float:
        """Mean host time of an eager call, the device idle at the start."""
        self.torch.cuda.synchronize()
        start = time.perf_counter_ns()
        for _ in range(HOST_LAUNCHES):
            launch()
        spent = (time.perf_counter_ns() - start) / HOST_LAUNCHES
        self.torch.cuda.synchronize()
        return spent

    def _captured(self, calls: list[Callable[[], Any]]) -> Any:
        graph = self.torch.cuda.CUDAGraph()
        with self.torch.cuda.graph(graph):
            for call in calls:
                call()
        graph.replay()
        self.torch.cuda.synchronize()
        return graph

    def _event_ns(self, graph: Any) -> float:
        first, last = (self.torch.cuda.Event(enable_timing=True) for _ in range(2))
        first.record()
        graph.replay()
        last.record()
        last.synchronize()
        return float(first.elapsed_time(last)) * 1e6

    def _randn(self, *size: int) -> Any:
        return self.torch.randn(size, dtype=self.torch.bfloat16, device=self.device)

    def _gemm(self, shape: Shape) -> Callable[[], Any]:
        a, b = self._randn(shape["m"], shape["k"]), self._randn(shape["n"], shape["k"])
        if shape["kind"] == "bf16":
            return lambda: self.torch.nn.functional.linear(a, b)
        if shape["kind"] != "fp8":
            raise NotImplementedError(f"gemm kind {shape['kind']} is not measured yet")
        from vllm import _custom_ops as ops

        one = self.torch.ones((), dtype=self.torch.float32, device=self.device)
        a8, b8 = a.to(self.torch.float8_e4m3fn), b.to(self.torch.float8_e4m3fn).t()
        return lambda: ops.cutlass_scaled_mm(a8, b8, one, one, self.torch.bfloat16)

    def _norm(self, shape: Shape) -> Callable[[], None]:
        from vllm import _custom_ops as ops

        x, residual = (self._randn(shape["tokens"], shape["hidden"]) for _ in range(2))
        weight = self._randn(shape["hidden"])
        return lambda: ops.fused_add_rms_norm(x, residual, weight, 1e-6)

    def _activation(self, shape: Shape) -> Callable[[], None]:
        import vllm._custom_ops  # noqa: F401  registers torch.ops._C

        x = self._randn(shape["tokens"], shape["hidden"])
        out = self._randn(shape["tokens"], shape["hidden"] // 2)
        return lambda: self.torch.ops._C.silu_and_mul(out, x)

    def _rope(self, shape: Shape) -> Callable[[], None]:
        from vllm import _custom_ops as ops

        dim = 128
        query = self._randn(shape["tokens"], max(dim, shape["hidden"] // dim * dim))
        positions = self.torch.arange(shape["tokens"], device=self.device)
        cache = self._randn(max(shape["tokens"], 2), dim)
        return lambda: ops.rotary_embedding(positions, query, None, dim, cache, True)

    def _embedding(self, shape: Shape) -> Callable[[], None]:
        table = self._randn(65536, shape["hidden"])
        ids = self.torch.randint(0, 65536, (shape["tokens"],), device=self.device)
        return lambda: self.torch.nn.functional.embedding(ids, table)

    def _elementwise(self, shape: Shape) -> Callable[[], None]:
        x, out = (self._randn(shape["tokens"], shape["hidden"]) for _ in range(2))
        return lambda: out.copy_(x)

    def _attention(self, shape: Shape) -> Callable[[], None]:
        from vllm.vllm_flash_attn import flash_attn_varlen_func

        torch = self.torch
        seqs = [(1, shape["decode_kv"])] * shape["decode_seqs"]
        seqs += [(shape["prefill_q"], shape["prefill_q"] + shape["prefill_context"])] * shape["prefill_seqs"]
        longest = max(k for _, k in seqs)
        pages = -(-longest // BLOCK_SIZE)
        ints = {"dtype": torch.int32, "device": self.device}
        table = torch.arange(pages * len(seqs), **ints).view(len(seqs), pages)
        cache = [
            self._randn(pages * len(seqs), BLOCK_SIZE, shape["kv_heads"], shape["head_dim"]) for _ in range(2)
        ]
        starts = torch.tensor([0, *(q for q, _ in seqs)], **ints).cumsum(0, dtype=torch.int32)
        used = torch.tensor([k for _, k in seqs], **ints)
        query = self._randn(sum(q for q, _ in seqs), shape["heads"], shape["head_dim"])
        return lambda: flash_attn_varlen_func(
            query, cache[0], cache[1], max_seqlen_q=max(q for q, _ in seqs), cu_seqlens_q=starts,
            max_seqlen_k=longest, seqused_k=used, block_table=table, causal=True,
        )  # fmt: skip
