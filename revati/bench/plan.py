"""Builds the two commands of a serving benchmark from what the user asked and what an emulated run needs."""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from revati.bench.flags import FlagError, SortedFlags

LOOPBACK = "127.0.0.1"
CLIENT_RESULT = "client.json"
SERVER_LOG = "server.log"
STATUS = "bench-status.json"
METRICS = "metrics.txt"
CLIENT_LOG = "client.log"
VLLM = (sys.executable, "-m", "vllm.entrypoints.cli.main")
_CLIENT = (sys.executable, "-m", "revati.bench.client")
PARALLEL_SIZES = ("--tensor-parallel-size", "--pipeline-parallel-size", "--data-parallel-size")


@dataclass(frozen=True)
class BenchPlan:
    """What the driver carries out. All paths lie in the run directory."""

    model: str
    gpus_needed: int
    server_command: list[str]
    client_command: list[str]
    base_url: str
    run_dir: Path
    ready_timeout_s: float = 3600.0
    stop_timeout_s: float = 60.0

    def to_json(self) -> str:
        """The plan as the driver reads it."""
        return json.dumps(dict(vars(self), run_dir=str(self.run_dir)), indent=1)

    @classmethod
    def from_json(cls, text: str) -> BenchPlan:
        """Read a plan written by `to_json`."""
        raw = json.loads(text)
        return cls(**dict(raw, run_dir=Path(raw["run_dir"])))


def free_port() -> int:
    """A TCP port on the loopback interface that is free now."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


def port_is_free(host: str, port: int) -> bool:
    """Whether a server could listen there now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def _checked_port(host: str, text: str) -> int:
    """The port that the user wants, if a server can have it."""
    if not text.isdecimal() or not 0 < int(text) < 65536:
        raise FlagError(f"--port must be 1 to 65535, got {text!r}; leave it out to get a free one")
    if not port_is_free(host, int(text)):
        raise FlagError(f"port {text} on {host} is in use; leave --port out to get a free one")
    return int(text)


def gpus_needed(flags: SortedFlags) -> int:
    """Tensor x pipeline x data parallel size of the engine flags."""
    return gpus_of_sizes(flags.value)


def gpus_of_sizes(value: Callable[[str], str | None]) -> int:
    """The same of any command line: `value` gives a flag's value by its long name."""
    product = 1
    for name in PARALLEL_SIZES:
        text = value(name)
        if text is None:
            continue
        if not text.isdigit() or int(text) < 1:
            raise FlagError(f"{name} must be a positive number, got {text!r}")
        product *= int(text)
    return product


def make_plan(
    flags: SortedFlags,
    run_dir: Path,
    *,
    model: str,
    engine_model: str | None = None,
) -> BenchPlan:
    """Complete the user's flags to the two commands.

    `model` is the name requests use; `engine_model` the path or id the engine loads (default: the same).
    """
    engine_model = engine_model or model
    host = flags.value("--host") or LOOPBACK
    port_text = flags.value("--port")
    port = free_port() if port_text is None else _checked_port(host, port_text)
    server = [*VLLM, "serve", engine_model, *_without(flags.server, "--model", 1)]
    client = [*_CLIENT, "bench", "serve", *_without(flags.client, "--model", 1), "--model", model]
    if engine_model != model:
        server += _unless(flags, "--served-model-name", model)
        client += _unless(flags, "--tokenizer", engine_model)
    for command in (server, client):
        command += _unless(flags, "--host", host) + ([] if port_text is not None else ["--port", str(port)])
    server += _unless(flags, "--load-format", "dummy")
    client = _own_result_file(client, run_dir)
    client += _unless(flags, "--percentile-metrics", "ttft,tpot,itl,e2el")
    client += _unless(flags, "--request-id-prefix", "bench-")
    return BenchPlan(
        model=model,
        gpus_needed=gpus_needed(flags),
        server_command=server,
        client_command=client,
        base_url=f"http://{host}:{port}",
        run_dir=run_dir,
    )


def _unless(flags: SortedFlags, name: str, value: str) -> list[str]:
    return [] if name in flags.values else [name, value]


def _without(words: Sequence[str], name: str, values: int) -> list[str]:
    kept: list[str] = []
    skip = 0
    for word in words:
        if skip:
            skip -= 1
        elif word == name:
            skip = values
        elif not word.startswith(name + "="):
            kept.append(word)
    return kept


def _own_result_file(client: Sequence[str], run_dir: Path) -> list[str]:
    """The client always saves everything into the run directory; what reaches the user is cut from that."""
    words = list(client)
    for name, values in (
        ("--save-result", 0),
        ("--save-detailed", 0),
        ("--result-dir", 1),
        ("--result-filename", 1),
    ):
        words = _without(words, name, values)
    return [
        *words,
        "--save-result",
        "--save-detailed",
        "--result-dir",
        str(run_dir),
        "--result-filename",
        CLIENT_RESULT,
    ]
