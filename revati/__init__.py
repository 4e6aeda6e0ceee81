"""Revati: unmodified LLM serving engines on a virtual GPU, in virtual time.

Importing this package changes nothing. `revati.init()` registers the `revati` device in this process;
`revati run -- COMMAND` presents a virtual `cuda` to a whole tree of processes.
"""

from typing import Any

__version__ = "0.1.0"
__all__ = ["__version__", "init", "trace"]


def __getattr__(name: str) -> Any:
    if name in ("init", "trace"):
        from revati import cuda

        return getattr(cuda, name)
    raise AttributeError(f"module 'revati' has no attribute {name!r}")
