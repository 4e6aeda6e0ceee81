"""Ends each request of vLLM at its recorded length (`--output-lengths`), by an end token vLLM itself finds.

The length travels in the request's sampling parameters from the process that knows the client's request id to
the scheduler. There the token at that place becomes the request's end token before vLLM looks for one, so
vLLM's own check ends the request, with finish reason "stop". What a GPU would have sampled is phantom anyway.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from types import ModuleType
from typing import Any

from revati.cuda import ledger
from revati.engines.output_lengths import OutputLengths, read_output_lengths

ENV = "REVATI_OUTPUT_LENGTHS"
KEY = "revati_output_tokens"
_WHY = "requests end at their recorded lengths (--output-lengths)"
_UNTIL = "never: no model is there that would sample an end token"
_COMPLETION = re.compile(r"cmpl-(?P<id>.*)-\d+")  # vLLM appends the prompt's index
_CHAT = "chatcmpl-"


def enabled() -> bool:
    """Whether this run has recorded lengths."""
    return bool(os.environ.get(ENV))


def clients_id(request_id: str) -> str:
    """The id a client gave its request (header X-Request-Id), out of the one vLLM's endpoints made of it."""
    completion = _COMPLETION.fullmatch(request_id)
    return completion["id"] if completion else request_id.removeprefix(_CHAT)


def note_length(request: Any, lengths: OutputLengths) -> None:
    """Put the recorded length of an `EngineCoreRequest`, if it has one, into its sampling parameters."""
    params = request.sampling_params
    length = None if params is None else lengths.of(clients_id(request.request_id))
    if length is not None:
        params.extra_args = {**(params.extra_args or {}), KEY: length}


def end_token(params: Any) -> int | None:
    """The token that ends a request with these sampling parameters; None where the client wants none to."""
    if params.ignore_eos:
        return None
    if params.eos_token_id is not None:
        return int(params.eos_token_id)
    return next(iter(params.stop_token_ids or ()), None)


def place_end(request: Any, new_token_ids: list[int]) -> None:
    """Let the last token of a request's recorded length, if it is among the new ones, be its end token."""
    params = request.sampling_params
    length = (params.extra_args or {}).get(KEY) if params is not None else None
    if length is None or (token := end_token(params)) is None:
        return
    # A real sampler is kept from ending before min_tokens.
    at = max(length, params.min_tokens) - 1 - request.num_output_tokens
    if 0 <= at < len(new_token_ids):
        new_token_ids[at] = token


def patch_input_processor(module: ModuleType) -> None:
    """`vllm.v1.engine.input_processor`: the last place that sees the client's request id alone."""
    lengths = read_output_lengths(Path(os.environ[ENV]))

    def assign_request_id(request: Any) -> None:
        note_length(request, lengths)
        before(request)

    before = ledger.replace(
        module.InputProcessor, "assign_request_id", staticmethod(assign_request_id), why=_WHY, until=_UNTIL
    )


def patch_scheduler(module: ModuleType) -> None:
    """`vllm.v1.core.sched.scheduler`: where sampled tokens are looked at."""

    def update(self: Any, request: Any, new_token_ids: list[int], *args: Any, **kwargs: Any) -> Any:
        place_end(request, new_token_ids)
        return before(self, request, new_token_ids, *args, **kwargs)

    before = ledger.replace(module.Scheduler, "_update_request_with_output", update, why=_WHY, until=_UNTIL)


PATCHES = {
    "vllm.v1.engine.input_processor": patch_input_processor,
    "vllm.v1.core.sched.scheduler": patch_scheduler,
}
