"""vLLM's compiler for the pieces of a model, on virtual GPUs.

vLLM traces a model with Dynamo, splits the graph at attention and gives each piece to inductor, which
generates Triton code. Here the pieces go to `revati.cuda.compiled`: the same kernels fused, none
generated. vLLM's own configuration stays as on a real GPU (backend "inductor").
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

from revati.cuda import ledger
from revati.engines.vllm import layers

_WHY = "inductor generates code for a GPU that is not there"
_UNTIL = "vLLM lets a platform choose the compiler of pieces under backend inductor"


def patch_backends(module: ModuleType) -> None:
    """`vllm.compilation.backends`: what compiles a piece."""
    from vllm.compilation.compiler_interface import CompilerInterface

    class VirtualInductor(CompilerInterface):  # type: ignore[misc]
        """Stands for inductor."""

        name = "revati"

        def compute_hash(self, vllm_config: Any) -> str:
            return "revati"

        def compile(
            self,
            graph: Any,
            example_inputs: list[Any],
            compiler_config: dict[str, Any],
            compile_range: Any = None,  # the name differs between versions
            key: str | None = None,
        ) -> tuple[Callable[..., Any] | None, Any | None]:
            import vllm.envs as envs

            from revati.cuda.compiled import compile_graph

            return compile_graph(graph, tunes=envs.VLLM_USE_STANDALONE_COMPILE), None

    before = module.make_compiler

    def make_compiler(compilation_config: Any) -> Any:
        if getattr(compilation_config, "use_inductor", compilation_config.backend == "inductor"):
            return VirtualInductor()
        return before(compilation_config)

    ledger.replace(module, "make_compiler", make_compiler, why=_WHY, until=_UNTIL)
    layers.install(module)


PATCHES = {"vllm.compilation.backends": patch_backends}
