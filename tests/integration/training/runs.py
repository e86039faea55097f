"""Runs of jobs, ours and PEFT's, seen step by step."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, pad

from adapters.spec import Dpo
from tests.integration.training.tiny import make_loop, peft_factors
from trainer.messages import Failed
from trainer.warm.job import Job, StepDone
from trainer.warm.model import BaseModel
from trainer.warm.objective import Preference
from trainer.warm.rows import Row, Sample
from trainer.warm.schedule import learning_rate


@dataclass
class Trace:
    """What a job's steps came to; index 0 is before the first."""

    weights: list[Tensor] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)

    @classmethod
    def of(cls, job: Job) -> Self:
        """Filled as the job makes its steps."""
        trace = cls([job.adapter.weights_P.clone()])
        finish_step = job.finish_step

        def note() -> StepDone | None:
            done = finish_step()
            if done is not None:
                trace.weights.append(job.adapter.weights_P.clone())
                trace.losses.append(done.loss)
            return done

        job.finish_step = note
        return trace

    @property
    def steps(self) -> int:
        return len(self.losses)


@dataclass(frozen=True)
class Stay:
    """A job, the turn in which it joins, and the one in which it is taken away, if it is."""

    job: Job
    joins: int = 0
    leaves: int | None = None


def run_together(
    base: BaseModel, stays: Sequence[Stay], *, budget: int, batched_tokens: int = 0
) -> tuple[dict[str, Trace], list[Any]]:
    """Jobs that come and go; one trace each, and all reports."""
    loop, reports = make_loop(base, budget=budget, batched_tokens=batched_tokens)
    traces = {stay.job.identity.job_id: Trace.of(stay.job) for stay in stays}
    turn = 0
    while not loop.idle or any(stay.joins >= turn for stay in stays):
        for stay in stays:
            if stay.joins == turn:
                loop.admit(stay.job)
            if stay.leaves is not None and stay.leaves == turn:
                loop.drop(stay.job.identity.job_id)
        loop.turn()
        turn += 1
    base.routing.batched_tokens = 0
    return traces, reports


def run_alone(base: BaseModel, job: Job, *, budget: int = 10_000) -> Trace:
    traces, reports = run_together(base, [Stay(job)], budget=budget)
    assert not [report for report in reports if isinstance(report, Failed)]
    return traces[job.identity.job_id]


def relative(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).norm() / theirs.norm())


@contextmanager
def broken(base: BaseModel, job: Job, fault: Any) -> Iterator[None]:
    """Inside, `fault(hidden_1TD)` is called with what enters the second layer, for that job's tokens only."""

    def hook(_: Any, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        hidden_1TD, *rest = arguments
        for segment in base.routing.segments:
            if segment.adapter is job.adapter:
                hidden_1TD = fault(hidden_1TD, segment)
        return (hidden_1TD, *rest)

    handle = base.decoder.layers[1].register_forward_pre_hook(hook)
    try:
        yield
    finally:
        handle.remove()


# -- PEFT with torch's AdamW, on the same samples in the same order


def order_of(job: Job) -> Iterator[list[Sample]]:
    """The samples of each step."""
    size = job.spec.batch_size
    for epoch in range(job.spec.n_epochs):
        order = job._order(epoch)
        for at in range(0, len(order), size):
            yield [job.dataset.train[index] for index in order[at : at + size]]


def peft_trace(peft: Any, job: Job, *, left: int = 0, right: int = 0) -> Trace:
    """Padded batches, as everybody trains: to the longest row, and `left` and `right` more."""
    factors = peft_factors(peft)
    spec = job.spec.optimizer
    halves = [[p for n, p in factors.items() if n.endswith(end)] for end in ("lora_A", "lora_B")]
    parameters = [parameter for half in halves for parameter in half]
    optimizer = torch.optim.AdamW(
        [{"params": half} for half in halves], lr=1.0, weight_decay=spec.weight_decay
    )
    trace = Trace(weights=[flat(job, peft)])
    for step, samples in enumerate(order_of(job)):
        loss = peft_step_loss(peft, job, samples, left=left, right=right)
        optimizer.zero_grad()
        loss.backward()
        if spec.max_grad_norm:
            torch.nn.utils.clip_grad_norm_(parameters, spec.max_grad_norm)
        rate = learning_rate(spec.learning_rate, spec.warmup_ratio, step, job.total_steps)
        for group, ratio in zip(optimizer.param_groups, (1.0, spec.lora_plus_ratio), strict=True):
            group["lr"] = rate * ratio
        optimizer.step()
        trace.weights.append(flat(job, peft))
        trace.losses.append(float(loss.detach()))
    return trace


def peft_step_loss(
    peft: Any, job: Job, samples: Sequence[Sample], *, left: int = 0, right: int = 0
) -> Tensor:
    rows = [row for sample in samples for row in sample.rows]
    losses = padded_losses(peft, rows, left=left, right=right)
    if not isinstance(job.spec.method, Dpo):
        weights = [row.target_weights_N.to(loss) for row, loss in zip(rows, losses, strict=True)]
        return (torch.cat(losses) * torch.cat(weights)).sum() / sum(row.weight for row in rows)
    assert isinstance(job.objective, Preference)
    with torch.no_grad(), peft.disable_adapter():
        known = padded_losses(peft, rows, left=left, right=right)
    gains = torch.stack(
        [before.sum() - now.sum() for before, now in zip(known, losses, strict=True)]
    )
    margin = job.spec.method.beta * (gains[::2] - gains[1::2])
    return -torch.nn.functional.logsigmoid(margin).mean()


def padded_losses(peft: Any, rows: Sequence[Row], *, left: int = 0, right: int = 0) -> list[Tensor]:
    """Each row's target losses, from one padded batch with an attention mask."""
    longest = max(map(len, rows))
    spaces = [(left, longest - len(row) + right) for row in rows]
    tokens_SM = torch.stack(
        [pad(row.tokens_T, space) for row, space in zip(rows, spaces, strict=True)]
    )
    mask_SM = torch.stack(
        [pad(torch.ones(len(row)), s) for row, s in zip(rows, spaces, strict=True)]
    )
    positions_SM = (mask_SM.cumsum(1) - 1).clamp(min=0).long()
    logits_SMV = peft(
        tokens_SM, attention_mask=mask_SM.long(), position_ids=positions_SM, use_cache=False
    ).logits
    return [
        cross_entropy(
            logits_SMV[at, left + row.targets_at_N - 1],
            row.tokens_T[row.targets_at_N],
            reduction="none",
        )
        for at, row in enumerate(rows)
    ]


def flat(job: Job, peft: Any) -> Tensor:
    """PEFT's factors in the order of our flat buffer."""
    factors = peft_factors(peft)
    buffer_P = torch.zeros_like(job.adapter.weights_P)
    for name, (a_RI, b_OR) in job.adapter._views(buffer_P).items():
        a_RI.copy_(factors[f"{name}.lora_A"].detach())
        b_OR.copy_(factors[f"{name}.lora_B"].detach())
    return buffer_P


def pairs(rows: Sequence[Row], *, seed: int) -> tuple[Sample, ...]:
    """To each row a second one, with the same prompt and another reply."""
    generator = torch.Generator().manual_seed(seed)
    samples = []
    for row in rows:
        start = int(row.targets_at_N[0])
        length = int(torch.randint(2, 12, (), generator=generator))
        reply_T = torch.randint(3, 300, (length,), generator=generator)
        tokens_T = torch.cat([row.tokens_T[:start], reply_T])
        weights_T = (torch.arange(len(tokens_T)) >= start).float()
        samples.append(Sample((row, Row(tokens_T, weights_T))))
    return tuple(samples)


def work_dirs(root: Path) -> Iterator[Path]:
    """As many as one wants."""
    at = 0
    while True:
        at += 1
        yield root / str(at)
