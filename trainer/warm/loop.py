"""Continuous batching for training: every turn, fill a micro-batch from all jobs, compute it, let finished steps step.

One forward and one backward pass through the frozen base serves all jobs in the micro-batch. Each job owns its weights,
optimizer state, schedule, clipping and step boundaries; see job.py for why neighbours cannot show.
"""

import contextlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from trainer.messages import Checkpointed, Evaluated, Failed, Finished
from trainer.warm import checkpoint
from trainer.warm.batch import Share
from trainer.warm.finish import adapter_dir, finish
from trainer.warm.job import PATIENCE_WITH_NAN, Job
from trainer.warm.model import BaseModel
from trainer.warm.progress import ProgressReporter, Send

log = logging.getLogger(__name__)

SMALLEST_BUDGET = 16


class Interrupted(Exception):
    """An order arrived that cannot wait for the end of the micro-batch."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What bounds a turn."""

    token_budget: int
    checkpoint_seconds: float


@dataclass(slots=True)
class Active:
    """A job in the loop."""

    job: Job
    progress: ProgressReporter
    checkpointed_at: float


class Loop:
    """The jobs under training and the base model they share."""

    def __init__(
        self,
        base: BaseModel,
        send: Send,
        limits: Limits,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._base = base
        self._send = send
        self._limits = limits
        self._clock = clock
        self.token_budget = limits.token_budget
        self._active: dict[str, Active] = {}
        self._turns = 0

    @property
    def idle(self) -> bool:
        """Whether there is nothing to train."""
        return not self._active

    @property
    def job_ids(self) -> list[str]:
        """The jobs under training."""
        return list(self._active)

    def admit(self, job: Job) -> None:
        """Train this job from the next turn on."""
        reporter = ProgressReporter(self._send, self._clock)
        self._active[job.identity.job_id] = Active(job, reporter, self._clock())

    def drop(self, job_id: str) -> bool:
        """Forget a job. Returns whether it was here."""
        return self._active.pop(job_id, None) is not None

    def checkpoint_all(self) -> None:
        """Make every job's latest step durable. Raises OSError."""
        for active in self._active.values():
            self._checkpoint(active)

    def turn(self) -> None:
        """One micro-batch of training, then one of each evaluation in progress. Raises Interrupted between passes."""
        try:
            shares = self._collect()
            self._compute(shares)
            self._settle()
            self._evaluate()
        except Interrupted:
            for active in self._active.values():
                active.job.restart_step()
            raise

    # -- the three verbs

    def _collect(self) -> dict[str, Share]:
        """Rows of every job that is in the middle of training, up to the token budget; at least one row.

        Jobs take turns at being first, and each may take an equal part of what is left, so that nobody starves; what a
        small job leaves goes to those after it.
        """
        training = [a.job for a in self._active.values() if _wants_rows(a.job)]
        self._turns += 1
        at = self._turns % max(1, len(training))
        left = self.token_budget
        shares: dict[str, Share] = {}
        for waiting, job in zip(
            range(len(training), 0, -1), training[at:] + training[:at], strict=True
        ):
            share = job.take(left // waiting, at_least_one=not shares)
            if share is not None:
                shares[job.identity.job_id] = share
                left = max(0, left - share.tokens)
        return shares

    def _compute(self, shares: dict[str, Share]) -> None:
        """Forward and backward; gradients are added to each job's own buffer."""
        if not shares:
            return
        jobs = [self._active[job_id].job for job_id in shares]
        losses = None
        with contextlib.suppress(torch.OutOfMemoryError):
            losses = self._forward_backward(list(shares.values()))
        if (
            losses is None
        ):  # out here, where the failed pass's activations are no longer held by its traceback
            for job in jobs:
                job.restart_step()
            single = sum(len(share.rows) for share in shares.values()) == 1
            self._shrink(jobs[0] if single else None)
            return
        for job, loss in zip(jobs, losses, strict=True):
            job.add_loss(loss)

    def _forward_backward(self, shares: list[Share]) -> list[float]:
        """The sum of each share's losses."""
        batch = self._base.assemble(shares)
        total, losses_N = self._base.losses(batch)
        total.backward()
        return [float(part.sum()) for part in losses_N.split(list(batch.targets_of_share))]

    def _settle(self) -> None:
        """Jobs whose every row has been through make their optimizer step."""
        for active in list(self._active.values()):
            job = active.job
            if not job.step_complete:
                continue
            done = job.finish_step()
            active.progress.stepped(job, done)
            if done.skipped:
                log.warning("%s: gradient not finite, step skipped", job.identity.job_id)
            if job.diverged:
                self._fail(active, "loss_diverged", DIVERGED)
            elif job.wants_evaluation():
                active.progress.flush()
                job.begin_evaluation()
            else:
                self._after_step(active)

    # -- evaluation, checkpoints, ends

    def _evaluate(self) -> None:
        for active in list(self._active.values()):
            job = active.job
            if job.evaluation is None and job.wants_evaluation():  # resumed right before it
                job.begin_evaluation()
            if job.evaluation is not None:
                self._advance_evaluation(active)
            elif job.trained:  # resumed right before the end
                self._finish(active)

    def _advance_evaluation(self, active: Active) -> None:
        evaluation = active.job.evaluation
        assert evaluation is not None
        try:
            evaluation.advance(self._base, self.token_budget)
        except torch.OutOfMemoryError:
            self._shrink(active.job if self.token_budget <= SMALLEST_BUDGET else None)
            return
        if not evaluation.done:
            return
        losses = evaluation.valid_loss, evaluation.base_valid_loss
        best = active.job.end_evaluation(*losses)
        active.progress.resume_clock()
        identity = active.job.identity
        if active.job.state.valid_loss == losses[0]:  # finite: JSON has no other numbers
            self._send(
                Evaluated(
                    job_id=identity.job_id,
                    attempt=identity.attempt,
                    step=active.job.state.step,
                    valid_loss=losses[0],
                    base_valid_loss=losses[1],
                    best=best,
                )
            )
        self._after_step(active, evaluated=True)

    def _after_step(self, active: Active, *, evaluated: bool = False) -> None:
        if active.job.trained:
            self._finish(active)
        elif evaluated or self._clock() - active.checkpointed_at >= self._limits.checkpoint_seconds:
            self._guarded(active, self._checkpoint)

    def _checkpoint(self, active: Active) -> None:
        active.progress.flush()
        checkpoint.save(active.job)
        active.checkpointed_at = self._clock()
        identity = active.job.identity
        step = active.job.state.step
        self._send(Checkpointed(job_id=identity.job_id, attempt=identity.attempt, step=step))

    def _finish(self, active: Active) -> None:
        active.progress.flush()
        self._guarded(active, self._export)

    def _export(self, active: Active) -> None:
        identity = active.job.identity
        manifest = finish(self._base, active.job)
        self._active.pop(identity.job_id)
        self._send(
            Finished(
                job_id=identity.job_id,
                attempt=identity.attempt,
                adapter_dir=adapter_dir(identity.work_dir),
                manifest=manifest,
            )
        )

    def _guarded(self, active: Active, act: Callable[[Active], None]) -> None:
        """A full disk is one job's trouble, not everyone's."""
        try:
            act(active)
        except OSError as error:
            if isinstance(error, ConnectionError):  # the worker is gone
                raise
            log.exception("%s cannot write its files", active.job.identity.job_id)
            self._fail(active, "storage_error", f"Files cannot be written: {error}", retryable=True)

    def _fail(self, active: Active, code: str, message: str, *, retryable: bool = False) -> None:
        identity = active.job.identity
        active.progress.flush()
        self._active.pop(identity.job_id, None)
        self._send(
            Failed(
                job_id=identity.job_id,
                attempt=identity.attempt,
                code=code,
                message=message,
                retryable=retryable,
            )
        )

    def _shrink(self, culprit: Job | None) -> None:
        """Out of memory: halve the micro-batch, or give up the job of which not even one row fits."""
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        self.token_budget = max(SMALLEST_BUDGET, self.token_budget // 2)
        log.warning("out of memory: token budget is now %d", self.token_budget)
        if culprit is not None:
            self._fail(self._active[culprit.identity.job_id], "out_of_memory", OUT_OF_MEMORY)


DIVERGED = (
    f"The gradient was not finite {PATIENCE_WITH_NAN} steps in a row. "
    "A lower learning rate helps most often; the default is 2e-4."
)
OUT_OF_MEMORY = "Not even one row fits into memory. Lower max_seq_length."


def _wants_rows(job: Job) -> bool:
    return job.evaluation is None and not job.trained and not job.wants_evaluation()
