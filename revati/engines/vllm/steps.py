"""Equal decode steps of vLLM's model runner are repeated, as equal layers of a model are (`layers.py`).

While nobody joins or leaves a batch, each decode step launches what the one before it did, over lengths that
are one longer. What such a step launches is noted once and launched again without its Python (`_C.Note`, with
values: lengths and positions move on, prices that depend on them are asked anew), at the host time that full
steps have taken so far. The engine's own bookkeeping (requests, blocks, output) runs in every step.

Where the host's CPU time counts, caches do too: repeated steps leave them cold, as they would not be if all
steps ran in full. So the last steps before a request ends run in full, for a prefill may follow; and some
in a row now and then, to learn what they take once caches are warm again. What a step right behind repeated
ones takes more is refunded to each such step: a request may also come when nobody knew.

Model runner V2, decode steps in full CUDA graphs only. What is not certain to be equal runs as it always did.
"""

from __future__ import annotations

import copy
import sys
from collections import defaultdict, deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from statistics import median_low
from types import ModuleType
from typing import Any

import torch

from revati import _C
from revati.cuda import ledger
from revati.engines.vllm.repeat_cost import host_ns, repeats

_HISTORY = 31
_ENOUGH = 8  # full steps that are known; until then all run in full
_EVERY = 512  # steps of a kind,
_IN_FULL = 16  # of which so many run in full
_WARM = 8  # steps in full after which caches are as if all had run so
_BEFORE_END = _WARM + 4  # the last steps of a request
_KEY = "_revati_steps"
_PARTS = 3


@dataclass
class Noted:
    """One step: its batch, what its parts launched, and with what its output was made.

    The parts are the forward pass once the requests are up to date, sampling, and what follows the output.
    """

    req_ids: list[str]
    computed_tokens: int  # of all requests, before the step
    left: int  # how often it may be repeated
    in_full: int  # how many steps had run in full since one was repeated
    follows_like: bool  # whether the one before was such a step, in full
    before_ns: int = 0  # the host's time for bringing the requests up to date
    parts: list[Any] = field(default_factory=lambda: [_C.Note(values=True) for _ in range(_PARTS)])
    begun: int = 0
    ended: int = 0
    output: dict[str, Any] = field(default_factory=dict)
    usable: bool = True

    def begin(self) -> None:
        """The next part begins here."""
        self.parts[self.begun].__enter__()
        self.begun += 1

    def end(self) -> None:
        """The part that has begun, if one has, ends here."""
        if self.ended < self.begun:
            self.parts[self.ended].__exit__()
            self.ended += 1

    @property
    def complete(self) -> bool:
        return (
            self.usable
            and self.ended == _PARTS
            and self.parts[0].replays == 1
            and all(part.repeatable for part in self.parts)
        )


@dataclass
class StepCost:
    """What full steps of one kind take the host: before their parts, then each part."""

    times_ns: tuple[deque[int], ...] = field(
        default_factory=lambda: tuple(deque[int](maxlen=_HISTORY) for _ in range(1 + _PARTS))
    )
    steps: int = 0

    def full_step_is_due(self) -> bool:
        """Whether this step should run in full. Never where the host's CPU time does not count."""
        if not _C.counts_cpu_time():
            return False
        self.steps += 1
        return len(self.times_ns[0]) < _ENOUGH or self.steps % _EVERY < _IN_FULL

    def keep(self, noted: Noted) -> None:
        """A full step that ran with warm caches."""
        for times, took_ns in zip(
            self.times_ns, (noted.before_ns, *(part.host_ns for part in noted.parts)), strict=True
        ):
            times.append(took_ns)

    def of(self, part: int) -> int:
        """0: before the parts."""
        return median_low(self.times_ns[part])

    def excess_ns(self, noted: Noted) -> int:
        """How much more than others the parts of this step took."""
        return sum(part.host_ns - self.of(1 + number) for number, part in enumerate(noted.parts))


class Steps:
    """The repeated steps of one model runner."""

    def __init__(self, runner: Any, new_output: Callable[..., Any]) -> None:
        self._runner, self._new_output = runner, new_output
        self._suits: bool | None = None
        self._costs: defaultdict[Hashable, StepCost] = defaultdict(StepCost)  # of kinds of steps
        self._ends: dict[str, int] = {}  # request -> its tokens, prompt and output, when it ends
        self._began_ns = 0
        self._in_full = 0  # steps since one was repeated
        self._last_was_like = False  # whether the last step was a decode step in full
        self._cold_ns: deque[int] = deque(maxlen=_HISTORY)  # what full steps behind repeated ones took more
        self._noted: Noted | None = None
        self.noting: Noted | None = None

    def execute_model(
        self, usual: Callable[..., Any], scheduled: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """The step `scheduled`, up to where its tokens are sampled."""
        noted, self.noting = self._noted, None
        with _C.OwnWork():
            self._note_ends(scheduled)
            decodes = not any(args) and not kwargs and _decodes_only(scheduled) and self._suitable()
            req_ids = list(scheduled.num_scheduled_tokens) if decodes else []
            computed = sum(scheduled.scheduled_cached_reqs.num_computed_tokens) if decodes else 0
            follows = decodes and noted is not None and self._follows(noted, scheduled, req_ids, computed)
            if not follows and decodes:
                left = self._may_repeat(scheduled.scheduled_cached_reqs)
                self.noting = Noted(req_ids, computed, left, self._in_full, self._last_was_like)
        if noted is not None and follows:
            self._in_full, self._last_was_like = 0, False
            return self._repeat_forward(noted, scheduled, computed)
        del noted
        self._noted = None  # and with it what a note keeps alive
        if self._in_full == 0 and self._cold_ns:
            _C.refund_host_ns(max(0, median_low(self._cold_ns)))
        self._in_full += 1
        self._last_was_like = False
        self._began_ns = host_ns()
        try:
            result = usual(self._runner, scheduled, *args, **kwargs)
        except BaseException:
            self._drop()
            raise
        if self.noting is not None:
            self.noting.end()
            if result is not None or not self.noting.ended:
                self._drop()
        return result

    def _suitable(self) -> bool:
        if self._suits is None:
            self._suits = _suits(self._runner)
        return self._suits

    def _note_ends(self, scheduled: Any) -> None:
        for request in scheduled.scheduled_new_reqs:
            if request.sampling_params is not None and request.prompt_token_ids is not None:
                ends = len(request.prompt_token_ids) + (request.sampling_params.max_tokens or 0)
                self._ends[request.req_id] = min(ends, self._runner.max_model_len)
        for req_id in scheduled.finished_req_ids:
            self._ends.pop(req_id, None)

    def _may_repeat(self, requests: Any) -> int:
        """How many steps, after the one in which these `requests` are, may be repetitions of it."""
        if not _C.counts_cpu_time():
            return sys.maxsize
        steps_left = [
            self._ends.get(req_id, 0) - computed - 2  # the last token is never computed
            for req_id, computed in zip(requests.req_ids, requests.num_computed_tokens, strict=True)
        ]
        return min(steps_left) - _BEFORE_END

    def _follows(self, noted: Noted, scheduled: Any, req_ids: list[str], computed: int) -> bool:
        return (
            not scheduled.finished_req_ids
            and not scheduled.preempted_req_ids
            and noted.left > 0
            and req_ids == noted.req_ids
            and computed == noted.computed_tokens + len(req_ids)
            and not self._costs[_kind(noted)].full_step_is_due()
        )

    def _repeat_forward(self, noted: Noted, scheduled: Any, computed: int) -> None:
        noted.computed_tokens = computed
        noted.left -= 1
        began_ns, missing_ns = host_ns(), 0
        with torch.inference_mode():
            if not _C.counts_cpu_time():
                self._runner.add_requests(scheduled)  # none is new: it takes time, and changes nothing
            self._runner.update_requests(scheduled)
            if any(new is not None for new in scheduled.scheduled_cached_reqs.new_block_ids):
                self._runner.block_tables.apply_staged_writes()
            if _C.counts_cpu_time():
                missing_ns = self._costs[_kind(noted)].of(0) - (host_ns() - began_ns)
            self._repeat(noted, 0, missing_ns)
        self._runner.execute_model_state = noted

    def _repeat(self, noted: Noted, part: int, more_ns: int = 0) -> None:
        with _C.OwnWork():
            took_ns = noted.parts[part].host_ns
            if _C.counts_cpu_time():
                took_ns = self._costs[_kind(noted)].of(1 + part)
            noted.parts[part].repeat(max(0, took_ns + more_ns))

    def sample_tokens(self, usual: Callable[..., Any], grammar_output: Any) -> Any:
        """The output of the step that `execute_model` began."""
        noted = self._noted
        if noted is not None and self._runner.execute_model_state is noted:
            self._runner.execute_model_state = None
            with torch.inference_mode():
                self._repeat(noted, 1)
                of_this_step = copy.copy(noted.output["model_runner_output"])
                output = self._new_output(**{**noted.output, "model_runner_output": of_this_step})
                self._repeat(noted, 2)
            return output
        if self.noting is None or grammar_output is not None:
            self._drop()
            return usual(self._runner, grammar_output)
        self.noting.begin()
        try:
            return usual(self._runner, grammar_output)
        finally:
            self.noting.end()
            self._keep()

    def begin_forward(self) -> None:
        """Requests are up to date: from here on a decode step is what its batch makes it."""
        if self.noting is not None:
            self.noting.before_ns = host_ns() - self._began_ns
            self.noting.begin()

    def gathered(self, batch: Any) -> None:
        """What the step's batch is has been found."""
        if self.noting is not None and (batch is None or batch.has_prefill):
            self._drop()

    def output(self, given: dict[str, Any]) -> Any:
        """The output of a full step; what follows it is the last part."""
        noting = self.noting
        if noting is None:
            return self._new_output(**given)
        noting.end()
        output = self._new_output(**given)
        noting.output = {**given, "model_runner_output": copy.copy(given["model_runner_output"])}
        noting.usable = _plain_output(given)
        noting.begin()
        return output

    def _drop(self) -> None:
        if self.noting is not None:
            self.noting.end()
        self.noting = None

    def _keep(self) -> None:
        noted, self.noting = self.noting, None
        if noted is None or not noted.complete:
            return
        self._noted = noted
        cost = self._costs[_kind(noted)]
        if noted.follows_like and noted.in_full >= _WARM:
            cost.keep(noted)
        elif noted.in_full == 0 and cost.times_ns[0]:
            self._cold_ns.append(cost.excess_ns(noted))
        self._last_was_like = True


def _kind(noted: Noted) -> int:
    """Steps of about as many requests cost the host about the same."""
    return len(noted.req_ids).bit_length()


def _decodes_only(scheduled: Any) -> bool:
    """One token for each request, none new, and nothing that only some steps do."""
    return (
        0 < scheduled.total_num_scheduled_tokens == len(scheduled.num_scheduled_tokens)
        and not scheduled.scheduled_new_reqs
        and not scheduled.scheduled_spec_decode_tokens
        and not scheduled.scheduled_encoder_inputs
        and not scheduled.free_encoder_mm_hashes
        and not scheduled.has_structured_output_requests
    )


def _plain_output(given: dict[str, Any]) -> bool:
    """Whether the output of a step is its tokens and nothing more."""
    result = given["model_runner_output"]
    sampled = given["sampler_output"]
    more = {*given} - {
        "model_runner_output", "sampler_output", "num_sampled_tokens", "main_stream", "copy_stream"
    }  # fmt: skip
    return (
        not any(given[name] for name in more)
        and not result.prompt_logprobs_dict
        and not getattr(result, "prompt_token_id_logprobs_dict", None)
        and all(
            getattr(sampled, name, None) is None
            for name in ("logprobs_tensors", "num_nans", "sampling_mask_tensors")
        )
    )


def _suits(runner: Any) -> bool:
    """Whether the decode steps of this runner depend on their batch alone."""
    from vllm.distributed.ec_transfer import has_ec_transfer
    from vllm.distributed.kv_transfer import has_kv_transfer_group

    absent = (
        "lora_config", "num_speculative_steps", "speculator", "pcp_manager", "pp_handler", "pooling_runner",
        "encoder_cache", "is_encoder_decoder", "uses_inputs_embeds", "supports_mm_inputs",
        "aux_output_connector", "adaptive_verification", "check_ep_fault",
    )  # fmt: skip
    return (
        not any(getattr(runner, name, None) for name in absent)
        and runner.is_last_pp_rank
        and runner.dp_size == 1
        and runner.dcp_size == 1
        and not runner.parallel_config.enable_eplb
        and type(runner.model_state).__name__ == "DefaultModelState"
        and not has_kv_transfer_group()
        and not has_ec_transfer()
    )


def install(module: ModuleType) -> None:
    """Change `vllm.v1.worker.gpu.model_runner`: how a step is executed and sampled."""
    if not repeats("steps") or not hasattr(module.GPUModelRunner, "gather_batch_req_state"):
        return
    why = "equal decode steps launch the same: their Python need not run for each"
    until = "never: without it the emulation is right, and slower"
    new_output, cls = module.AsyncOutput, module.GPUModelRunner
    execute, sample, gather = cls.execute_model, cls.sample_tokens, cls.gather_batch_req_state
    sampling: list[Steps] = []

    def steps_of(runner: Any) -> Steps:
        steps: Steps | None = runner.__dict__.get(_KEY)
        if steps is None:
            steps = runner.__dict__[_KEY] = Steps(runner, new_output)
        return steps

    def execute_model(self: Any, scheduler_output: Any, *args: Any, **kwargs: Any) -> Any:
        return steps_of(self).execute_model(execute, scheduler_output, args, kwargs)

    def sample_tokens(self: Any, grammar_output: Any) -> Any:
        steps = steps_of(self)
        sampling.append(steps)
        try:
            return steps.sample_tokens(sample, grammar_output)
        finally:
            sampling.pop()

    def gather_batch_req_state(self: Any, *args: Any, **kwargs: Any) -> Any:
        steps = steps_of(self)
        steps.begin_forward()
        result = gather(self, *args, **kwargs)
        steps.gathered(result[0])
        return result

    def output(**given: Any) -> Any:
        return sampling[-1].output(given) if sampling else new_output(**given)

    for name, value in (
        ("execute_model", execute_model),
        ("sample_tokens", sample_tokens),
        ("gather_batch_req_state", gather_batch_req_state),
    ):
        ledger.replace(cls, name, value, why=why, until=until)
    ledger.replace(module, "AsyncOutput", output, why=why, until=until)


PATCHES = {"vllm.v1.worker.gpu.model_runner": install}
