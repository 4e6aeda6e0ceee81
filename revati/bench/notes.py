"""What a reader of a benchmark's figures should know about this run, one line each."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from revati.cli.environment import RunOptions

_UNMEASURED = {
    "flashinfer::bmm_fp8": "FlashInfer's bmm_fp8 took 2 to 4 times as long at prefill, where it was "
    "measured, as the products in fp8 that the profile knows; --linear-backend cutlass runs those",
}


def of_run(options: RunOptions, client: dict[str, Any], ops: Sequence[str] = ()) -> list[str]:
    """All notes on a run with these options.

    client: vLLM's own result, empty where there is none; ops: names of those that took most of the time.
    """
    found = [_engine_note(options, client), _lengths_note(options, client)]
    priced = client and options.latency == "profile"
    kernels = [words for name, words in _UNMEASURED.items() if priced and name in ops]
    return [note for note in (*found, *kernels) if note]


def _engine_note(options: RunOptions, client: dict[str, Any]) -> str | None:
    """Models that were trained on kernels of other versions of the engine."""
    from revati.latency.store import ProfileError, load_profile

    if options.latency != "profile" or not client:
        return None
    try:
        running = version("vllm")
        models = load_profile(options.gpu).provenance.get("models", {})
    except (PackageNotFoundError, ProfileError):
        return None
    others: dict[str, list[str]] = {}
    for name, entry in sorted(models.items()):
        measured = [str(engine) for engine in entry.get("engine_versions", [])]
        if measured and running not in measured:
            others.setdefault(", ".join(measured), []).append(name)
    if not others:
        return None
    parts = [f"{', '.join(names)}: {measured}" for measured, names in others.items()]
    return (
        f"profile {options.gpu} was not measured with vLLM {running} but with other versions of kernel "
        f"libraries ({'; '.join(parts)}); kernels that changed since are priced as they were"
    )


def _lengths_note(options: RunOptions, client: dict[str, Any]) -> str | None:
    """Requests that the file of recorded lengths has no line for."""
    from revati.engines.output_lengths import read_output_lengths

    if options.output_lengths is None or not client:
        return None
    lines = len(read_output_lengths(options.output_lengths))
    requests = int(client.get("completed", 0)) + int(client.get("failed", 0))
    if requests <= lines:
        return None
    return f"--output-lengths has {lines} lines for {requests} requests: the others ran to their max_tokens"
