"""Which vLLM this plug-in was written and tested for."""

from __future__ import annotations

import importlib
import sys
from importlib import metadata
from types import ModuleType

SUPPORTED = ("0.30", "0.31", "0.32")  # they need the PyTorch that Revati is built for
OLDER = ("0.10", "0.11", "0.12", "0.19")  # built for an older one, see docs/adding-an-engine-version.md
LIBRARIES = {
    "vllm._C": ("_C", "_C_cache_ops", "_C_cuda_utils", "_C_custom_ar"),
    "vllm._moe_C": ("_moe_C",),
    "vllm.vllm_flash_attn._vllm_fa2_C": ("_vllm_fa2_C",),
    "vllm.vllm_flash_attn._vllm_fa3_C": ("_vllm_fa3_C",),
    "vllm._flashmla_C": ("_flashmla_C",),
    "vllm._flashmla_extension_C": ("_flashmla_extension_C",),
}
"""Kernel libraries that `OLDER` versions link against their own PyTorch, and the namespaces of their ops."""
NEWEST = "0.32.0"


def first_of(*names: str) -> ModuleType:
    """The first of these modules that this vLLM has: where a function lies differs between versions."""
    for name in names:
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name is None or not name.startswith(error.name):
                raise
    raise ModuleNotFoundError(f"vLLM has none of the modules {', '.join(names)}")


def _minor(version: str) -> str:
    return ".".join(version.split(".")[:2])


def is_older(version: str | None = None) -> bool:
    """Whether a vLLM (default: the installed one) is one of `OLDER`."""
    return _minor(version or metadata.version("vllm")) in OLDER


def refusal(version: str) -> str | None:
    """One line on why a vLLM of this version is not run, or None for one that is supported."""
    if _minor(version) in (*SUPPORTED, *OLDER):
        return None
    *others, last = [f"{supported}.x" for supported in SUPPORTED]
    expected = f"{', '.join(others)} or {last}"
    return (
        f"vLLM {version} is not supported, expected {expected}: pip install vllm=={NEWEST} "
        "(docs/adding-an-engine-version.md says how to add one)"
    )


def check() -> None:
    """End the process, in one line and with code 2, where the installed vLLM is not supported.

    vLLM passes over every exception of a platform plug-in and would look for another platform.
    """
    from revati.cuda import refusal as last_word

    if text := refusal(metadata.version("vllm")):
        last_word.note(text)
        print(f"revati: {text}", file=sys.stderr)
        raise SystemExit(2)
