"""One exception for everything a user can put right; `main` prints it as one line and exits with its code."""

from __future__ import annotations


class CliError(Exception):
    """A mistake in what was asked: `message` names the thing, what was expected and the next step."""

    def __init__(self, message: str, exit_code: int = 2) -> None:
        super().__init__(message)
        self.exit_code = exit_code
