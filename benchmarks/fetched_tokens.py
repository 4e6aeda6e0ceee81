"""How many tokens the load of the speed benchmark has fetched, for a floor that waits for it."""

from __future__ import annotations

import mmap
import struct
from pathlib import Path

FETCHED_ENV = "FLOOR_FETCHED"


class FetchedTokens:
    """A count in a file, written by the process that fetches tokens and read by the one that makes them."""

    def __init__(self, path: Path) -> None:
        if not path.exists():
            path.write_bytes(bytes(8))
        with path.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), 8)

    @property
    def count(self) -> int:
        """How many tokens were fetched so far."""
        found: tuple[int] = struct.unpack("<q", self._memory[:8])
        return found[0]

    def add(self, tokens: int) -> None:
        """So many more were."""
        self._memory[:8] = struct.pack("<q", self.count + tokens)
