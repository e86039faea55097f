"""From what is known beforehand to what a job would come to."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from adapters.records import Job
from adapters.spec import TrainingSpec
from service.advice import (
    about_capacity,
    about_length,
    about_rows,
    about_settings,
    memory_short,
    uncounted,
)
from service.decision import Decision
from service.finetune import Data
from service.footprint import Footprint
from service.forecast import Plan, plan, speed
from service.schemas.jobs import wire_dataset, wire_hyperparameters
from service.schemas.looking import WireEstimate, WireMemory, WireWarning
from service.tokens.messages import Counted

#: Tokens that a training process computes at a time on a CPU (trainer.token_budget), or one row, where that is longer.
_MICRO_BATCH = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Grounds:
    """What an estimate stands on."""

    #: None where nobody could count, and why.
    counted: Counted | None
    uncounted: str
    max_seq_length: int
    #: Of this base model, newest first.
    jobs: Sequence[Job]
    footprint: Footprint | None
    gpu: bool
    available: int | None
    #: Seconds until the job would start; None where nobody can tell.
    queue_wait: float | None


def estimate(data: Data, decision: Decision, grounds: Grounds) -> WireEstimate:
    """What the job would come to."""
    spec, counted = decision.spec, grounds.counted
    held_out = None if data.held_out is None else data.held_out.rows - data.held_out.duplicates
    rows = data.training.rows - data.training.duplicates
    course = plan(spec, rows=rows, held_out=held_out, counted=counted)
    pace = speed(grounds.jobs, grounds.footprint, gpu=grounds.gpu)
    tokens = _all_epochs(course.tokens_per_epoch, spec)
    memory = _memory(spec, grounds)
    return WireEstimate(
        object="fine_tuning.estimate",
        model=decision.base_model,
        method=spec.method.kind,
        steps=course.steps,
        steps_per_epoch=course.steps_per_epoch,
        train_rows=course.train_samples,
        valid_rows=course.valid_rows,
        dropped_rows=course.dropped_rows,
        tokens=tokens,
        trained_tokens=_all_epochs(course.trained_tokens_per_epoch, spec),
        tokens_per_epoch=course.tokens_per_epoch,
        trained_tokens_per_epoch=course.trained_tokens_per_epoch,
        longest=counted.longest if counted else None,
        sampled=counted is not None and not counted.complete,
        duration_seconds=round(tokens / pace.tokens_per_second, 1) if tokens and pace else None,
        tokens_per_second=round(pace.tokens_per_second, 1) if pace else None,
        duration_basis=pace.basis if pace else None,
        memory=memory,
        fits=_fits(memory),
        queue_wait_seconds=grounds.queue_wait,
        hyperparameters=wire_hyperparameters(spec),
        dataset=wire_dataset(data.summary),
        warnings=list(_warnings(data, spec, course, memory, grounds)),
    )


def _all_epochs(tokens: int | None, spec: TrainingSpec) -> int | None:
    return None if tokens is None else tokens * spec.n_epochs


def _memory(spec: TrainingSpec, grounds: Grounds) -> WireMemory | None:
    size = grounds.footprint
    if size is None:
        return None
    longest = min(grounds.counted.longest, grounds.max_seq_length) if grounds.counted else 0
    return WireMemory(
        adapter_parameters=size.adapter_parameters(spec.lora),
        adapter_bytes=size.adapter_bytes(spec.lora),
        activation_bytes=size.activation_bytes(max(longest, _MICRO_BATCH)),
        base_bytes=size.bytes,
        available_bytes=grounds.available,
    )


def _needed(memory: WireMemory) -> int:
    return memory.adapter_bytes + memory.activation_bytes


def _fits(memory: WireMemory | None) -> bool | None:
    if memory is None or memory.available_bytes is None:
        return None
    return _needed(memory) <= memory.available_bytes


def _warnings(
    data: Data, spec: TrainingSpec, course: Plan, memory: WireMemory | None, grounds: Grounds
) -> Iterator[WireWarning]:
    yield from about_rows(data.training)
    yield from about_length(course.dropped_rows or 0, grounds.max_seq_length)
    yield from about_settings(spec, course)
    if memory is not None and course.trained_tokens_per_epoch is not None:
        yield from about_capacity(memory.adapter_parameters, course.trained_tokens_per_epoch)
    if memory is not None and memory.available_bytes is not None and not _fits(memory):
        yield memory_short(_needed(memory), memory.available_bytes)
    if grounds.counted is None:
        yield uncounted(grounds.uncounted)
