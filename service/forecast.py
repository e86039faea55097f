"""How long a job would take, from what the jobs before it did."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal, TypeAlias

from adapters.datasets.held_out import held_out_size
from adapters.records import Job
from adapters.spec import TrainingSpec
from service.footprint import Footprint
from service.tokens.messages import Counted

Basis: TypeAlias = Literal["measured", "assumed"]

#: The newest jobs whose speed counts.
_RECENT = 8
#: What a token costs: each weight is multiplied and added, forward and backward, and the base is frozen.
_OPERATIONS_PER_PARAMETER = 4
#: Operations a second, where nothing has been measured yet: what the demo model reaches on one core
#: (bench/LOG.md: 120 tokens/s of 135 million parameters), and a third of what a data-centre GPU reaches in bfloat16.
_CPU_OPERATIONS, _GPU_OPERATIONS = 6e10, 1e14


@dataclass(frozen=True, slots=True)
class Plan:
    """What training goes through."""

    train_samples: int
    valid_rows: int
    steps_per_epoch: int
    steps: int
    #: Of one epoch; None where nobody could count them.
    tokens_per_epoch: int | None
    trained_tokens_per_epoch: int | None
    dropped_rows: int | None


@dataclass(frozen=True, slots=True)
class Speed:
    """Tokens a second, and where the number comes from."""

    tokens_per_second: float
    basis: Basis


def plan(spec: TrainingSpec, *, rows: int, held_out: int | None, counted: Counted | None) -> Plan:
    """The steps of a job, as the trainer will divide them.

    `rows` are the distinct ones, `held_out` those that came to be held out; None leaves that to the split.
    """
    if counted is None:
        valid = held_out_size(rows, spec) if held_out is None else held_out
        samples = rows - (valid if held_out is None else 0)
        return _planned(spec, samples, valid, tokens=(None, None), dropped=None)
    scale = rows / counted.rows
    dropped = round(counted.too_long * scale)
    kept = rows - dropped
    valid = held_out_size(kept, spec) if held_out is None else held_out
    share = scale * (1.0 if held_out is not None else (kept - valid) / max(1, kept))
    tokens = round(counted.tokens * share), round(counted.trained_tokens * share)
    return _planned(spec, round(counted.samples * share), valid, tokens=tokens, dropped=dropped)


def speed(jobs: Sequence[Job], footprint: Footprint | None, *, gpu: bool) -> Speed | None:
    """What jobs of a base model reach, newest first; assumed from its size where none has told yet."""
    found = [job.progress.tokens_per_second for job in jobs]
    told = [rate for rate in found if rate]
    if told:
        return Speed(median(told[:_RECENT]), "measured")
    if footprint is None:
        return None
    operations = _GPU_OPERATIONS if gpu else _CPU_OPERATIONS
    return Speed(operations / (_OPERATIONS_PER_PARAMETER * footprint.parameters), "assumed")


def _planned(
    spec: TrainingSpec,
    samples: int,
    valid: int,
    *,
    tokens: tuple[int | None, int | None],
    dropped: int | None,
) -> Plan:
    steps = -(-samples // spec.batch_size)
    return Plan(
        train_samples=samples,
        valid_rows=valid,
        steps_per_epoch=steps,
        steps=steps * spec.n_epochs,
        tokens_per_epoch=tokens[0],
        trained_tokens_per_epoch=tokens[1],
        dropped_rows=dropped,
    )
