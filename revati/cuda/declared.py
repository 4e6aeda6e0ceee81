"""Ops of kernel libraries that were built for another PyTorch: declared from the schemas they hold.

A library that links against the C++ interface of one PyTorch version does not load beside another. Of all
that is in it a virtual GPU needs the ops' schemas, and those are text: `TORCH_LIBRARY` parses them when the
library loads. An op that was registered without a schema cannot be found this way.
"""

from __future__ import annotations

import mmap
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

LIBRARIES: dict[str, tuple[str, ...]] = {}
"""Modules whose ops may be declared, and the namespaces they register in. Engine plug-ins add theirs."""
NAMESPACES: set[str] = set()  # of what was declared
_SCHEMA = re.compile(rb"[A-Za-z_]\w*(?:\.\w+)?\s*\([\s\x20-\x7e]*\)\s*->\s*[\s\x20-\x7e]+")
_LONGEST_BYTES = 10_000
_kept: list[Any] = []


def schemas(library: Path) -> list[str]:
    """All op schemas in a shared library, without namespace, in the order they lie in it."""
    import torch

    with library.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        texts = dict.fromkeys(_texts(content))
    found = []
    for text in texts:
        try:
            torch._C.parse_schema(text)
        except RuntimeError:  # some other text with an arrow in it
            continue
        found.append(text)
    return found


def _texts(content: mmap.mmap) -> Iterator[str]:
    """The zero-terminated texts that look like a schema, in one line."""
    arrow = content.find(b"->")
    while arrow >= 0:
        begin, end = content.rfind(b"\0", 0, arrow) + 1, content.find(b"\0", arrow)
        if end < 0:
            return
        if end - begin < _LONGEST_BYTES and _SCHEMA.fullmatch(content[begin:end]):
            yield " ".join(content[begin:end].decode().split())
        arrow = content.find(b"->", end)


def declare(module: str, library: Path) -> bool:
    """Declare the ops of extension `module` in each of its namespaces; False if it is none of `LIBRARIES`.

    Which of a library's namespaces an op belongs to is code, not text, so it is declared in all of them.
    """
    import torch

    if module not in LIBRARIES:
        return False
    texts = schemas(library)
    known = set(torch._C._dispatch_get_all_op_names())
    for namespace in LIBRARIES[module]:
        fragment = torch.library.Library(namespace, "FRAGMENT")
        for text in texts:
            if f"{namespace}::{text.partition('(')[0].strip()}" not in known:
                fragment.define(text)
        _kept.append(fragment)
        NAMESPACES.add(namespace)
    return True
