"""What refuses `revati run -- vllm serve ...` before it starts: a line now, not a traceback in a minute."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from revati.bench.flags import FlagError
from revati.bench.plan import PARALLEL_SIZES, gpus_of_sizes, port_is_free
from revati.cli.errors import CliError

_SHORT = dict(zip(PARALLEL_SIZES, ("-tp", "-pp", "-dp"), strict=True))
_DEFAULT_PORT = 8000


def check_command(command: Sequence[str], gpus: int) -> None:
    """Refuse a `vllm serve` that needs more GPUs than there are, or a taken port. Other commands pass."""
    words = list(command)
    if len(words) < 2 or Path(words[0]).name != "vllm" or words[1] != "serve":
        return
    sizes = {long: _value(words, long, short) for long, short in _SHORT.items()}
    try:
        needed = gpus_of_sizes(sizes.get)
    except FlagError:
        return  # vLLM says what is wrong with it
    if needed > gpus and _value(words, "--nnodes", "-n") is None:
        asked = " ".join(f"{name} {size}" for name, size in sizes.items() if size is not None)
        raise CliError(
            f"{asked} needs {needed} GPUs, and there {'is' if gpus == 1 else 'are'} {gpus}; "
            f"run with --gpus {needed}"
        )
    if _value(words, "--uds") is not None:
        return
    host, port = _value(words, "--host") or "0.0.0.0", _value(words, "--port")
    if ":" in host or not (port or "0").isdigit():
        return  # not looked at here; vLLM says what is wrong with a port
    if not port_is_free(host, int(port or _DEFAULT_PORT)):
        raise CliError(f"port {port or _DEFAULT_PORT} on {host} is in use; give another --port")


def _value(words: Sequence[str], *names: str) -> str | None:
    """The last value of a flag: `--flag value` or `--flag=value`, with dashes or underscores."""
    found = None
    for at, word in enumerate(words):
        flag, equals, value = word.partition("=")
        if flag.replace("_", "-") not in names:
            continue
        if equals:
            found = value
        elif at + 1 < len(words):
            found = words[at + 1]
    return found
