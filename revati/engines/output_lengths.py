"""Recorded output lengths (`--output-lengths FILE`): how many tokens each request has, end token included.

FILE is JSON lines. Either every line is {"output_tokens": N} and line i, from 0, belongs to the request whose
id ends in the number i, as the requests of `vllm bench serve` (bench-0, bench-1, ...) and of offline engines
(0, 1, ...) do, in the order in which they are sent. Or every line is {"request_id": ID, "output_tokens": N}.
A request without a line is left alone.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_NUMBER = re.compile(r"(?:^|-)(\d{1,9})$")


class OutputLengthsError(ValueError):
    """The file is not as described above; the message names the line and what was expected."""


@dataclass(frozen=True)
class OutputLengths:
    """Lengths in tokens, by the number at the end of a request's id or by the whole id."""

    by_number: list[int] = field(default_factory=list)
    by_id: dict[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.by_number) + len(self.by_id)

    def of(self, request_id: str) -> int | None:
        """The recorded length of a request by the id that its client gave it, or None."""
        if request_id in self.by_id:
            return self.by_id[request_id]
        number = _NUMBER.search(request_id)
        if number is None or int(number[1]) >= len(self.by_number):
            return None
        return self.by_number[int(number[1])]


def read_output_lengths(path: Path) -> OutputLengths:
    """Read a file of recorded lengths.

    Raises:
        OutputLengthsError: it cannot be read, is empty, or a line is not as expected.
    """
    lengths = OutputLengths()
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise OutputLengthsError(f"{path} cannot be read: {error}") from None
    for number, line in enumerate(lines, 1):
        if line.strip():
            _add(lengths, line, f"{path}, line {number}")
    if not len(lengths):
        raise OutputLengthsError(f'{path} is empty; expected lines like {{"output_tokens": 128}}')
    return lengths


def _add(lengths: OutputLengths, line: str, where: str) -> None:
    try:
        row: Any = json.loads(line)
    except ValueError:
        row = None
    if not isinstance(row, dict) or not set(row) <= {"request_id", "output_tokens"}:
        raise OutputLengthsError(f'{where}: expected {{"output_tokens": 128}}, got {line.strip()[:80]}')
    tokens, request_id = row.get("output_tokens"), row.get("request_id")
    if not isinstance(tokens, int) or isinstance(tokens, bool) or tokens < 1:
        raise OutputLengthsError(f"{where}: output_tokens must be a whole number from 1 on, got {tokens!r}")
    if "request_id" not in row:
        if lengths.by_id:
            raise OutputLengthsError(f"{where}: no request_id, but lines before have one; give all or none")
        lengths.by_number.append(tokens)
        return
    if not isinstance(request_id, str):
        raise OutputLengthsError(f"{where}: request_id must be a text, got {request_id!r}")
    if lengths.by_number or request_id in lengths.by_id:
        why = "is there twice" if request_id in lengths.by_id else "but the lines before have none"
        raise OutputLengthsError(f"{where}: request_id {request_id!r} {why}")
    lengths.by_id[request_id] = tokens
