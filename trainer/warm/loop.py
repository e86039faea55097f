"""Continuous batching for training: every turn, fill a micro-batch from all jobs, compute it, let finished steps step.

One forward and one backward pass through the frozen base serves all jobs in the micro-batch. Each job owns its weights,
optimizer state, schedule, clipping and step boundaries; see job.py for why neighbours cannot show.
"""

import logging
import math
import time
from collections.abc import Callable, Sequence
from functools import partial

import torch

from trainer.messages import Checkpointed, Evaluated, Failed, Squeezed
from trainer.warm import checkpoint
from trainer.warm.active import Active
from trainer.warm.batch import Share, by_share
from trainer.warm.budget import TokenBudget
from trainer.warm.evaluate import look_up_references
from trainer.warm.exports import Exports
from trainer.warm.failures import DIVERGED, NOT_A_NUMBER, does_not_fit
from trainer.warm.finish import Proven, finish, probe_and_export
from trainer.warm.job import Job
from trainer.warm.limits import Limits
from trainer.warm.memory import memory_may_run_out
from trainer.warm.model import BaseModel
from trainer.warm.parts import largest_part
from trainer.warm.progress import ProgressReporter, Send

log = logging.getLogger(__name__)


class Interrupted(Exception):
    """An order arrived that cannot wait for the end of the micro-batch."""


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
        self._crew = base.crew
        self._send = send
        self._limits = limits
        self._clock = clock
        self._exports = Exports(base, send)
        self.budget = TokenBudget(limits.token_budget, limits.meter)
        self._active: dict[str, Active] = {}
        self._turns = 0
        #: Seconds that the latest checkpoint took; None before the first: others wait for what it shows.
        self._checkpoint_took: float | None = None
        # Of this turn, and the same for all ranks: a rank's tokens in a pass, the time, the pause between checkpoints.
        self._room = self.budget.tokens
        self._now = self._pause = 0.0

    @property
    def idle(self) -> bool:
        """Whether there is nothing to train."""
        return not self._active

    def admit(self, job: Job, prove_past: int | None = None) -> None:
        """Train this job from the next turn on."""
        if self._base.dtype is torch.float16:
            job.state.scale.begin()
        with memory_may_run_out() as attempt:
            self._base.routing.seat(job.adapter)
        if not attempt.fits:
            log.warning("%s: no memory to lie beside others", job.identity.job_id)
        reporter = ProgressReporter(self._send, self._clock)
        now = self._crew.agree(self._clock())
        self._active[job.identity.job_id] = Active(job, reporter, now, now, prove_past)

    def drop(self, job_id: str) -> bool:
        """Forget a job. Returns whether it was here."""
        active = self._active.pop(job_id, None)
        if active is not None:
            self._tried(partial(self._exports.tell, active), active)
            self._base.routing.cohorts.leave(active.job.adapter)
        return active is not None

    def keep(self, job_id: str) -> None:
        """Make the job's latest step durable, if it is here. Where that fails, the job is failed and forgotten."""
        active = self._active.get(job_id)
        if active is not None:
            self._guarded(active, self._checkpoint)

    def checkpoint_all(self) -> None:
        """Make every job's latest step durable. Raises OSError."""
        for active in self._active.values():
            self._checkpoint(active)

    def turn(self) -> None:
        """One micro-batch of training, then one of each evaluation in progress. Raises Interrupted between passes."""
        self._base.routing.batched_tokens = self._limits.batched_tokens
        self._room = self._crew.least(self.budget.tokens)
        pause = self._limits.pause(len(self._active), self._checkpoint_took or 0.0)
        self._now, self._pause = self._crew.agree([self._clock(), pause])
        try:
            shares = self._collect()
            self._compute(shares)
            self._settle()
            self._evaluate()
            self._end()
        except Interrupted:
            for active in self._active.values():
                active.job.restart_step()
            raise

    # -- the three verbs

    def _collect(self) -> dict[str, Share]:
        """Samples of every job that is in the middle of training, up to the token budget of all ranks; at least one.

        Jobs take turns at being first, and each may take an equal part of what is left, so that nobody starves; what a
        small job leaves goes to those after it.
        """
        training = [a.job for a in self._active.values() if a.wants_rows]
        self._turns += 1
        at = self._turns % max(1, len(training))
        left = self._room * self._crew.size
        shares: dict[str, Share] = {}
        for waiting, job in zip(
            range(len(training), 0, -1), training[at:] + training[:at], strict=True
        ):
            share = job.take(left // waiting, at_least_one=not shares)
            if share is not None:
                shares[job.identity.job_id] = share
                left = max(0, left - share.tokens)
        # In the order of their rows in cohorts, whoever came first.
        return {job_id: shares[job_id] for job_id in self._active if job_id in shares}

    def _compute(self, shares: dict[str, Share]) -> None:
        """Forward and backward; gradients are added to each job's own buffer."""
        if not shares:
            return
        active = [self._active[job_id] for job_id in shares]
        samples = [sample for share in shares.values() for sample in share.samples]
        tokens = largest_part(samples, self._crew.size, self._room)
        sums: list[tuple[float, float]] = []
        with memory_may_run_out() as attempt, self.budget.spent(tokens):
            self._base.checkpoint_layers(on=any(one.tight for one in active))
            sums = self._forward_backward(list(shares.values()))
        if not attempt.fits:
            for one in active:
                one.job.restart_step()
            self._make_do(tokens, active[0] if len(samples) == 1 else None)
            return
        for one, (loss, hits) in zip(active, sums, strict=True):
            one.job.count(loss, hits)

    def _forward_backward(self, shares: list[Share]) -> list[tuple[float, float]]:
        """The sum of the losses of each share's samples, and how many of their targets were likeliest."""
        look_up_references(shares, self._base, self._room)
        parts = by_share(shares, self._base.train(shares, self._room))
        totals = [
            torch.stack([share.objective.judge(share.samples, losses_N).total, hits_N.sum()])
            for share, (losses_N, hits_N) in zip(shares, parts, strict=True)
        ]
        # One wait for the device, not one for each job.
        return [(loss, hits) for loss, hits in torch.stack(totals).tolist()]

    def _settle(self) -> None:
        """Jobs whose every row has been through make their optimizer step."""
        complete = [active for active in self._active.values() if active.job.step_complete]
        for active in complete:
            self._crew.sum_(active.job.adapter.gradient_P)
        for active in complete:
            job = active.job
            done = job.finish_step()
            if done is None:  # once more, with the loss scaled less
                continue
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

    def _advance_evaluation(self, active: Active) -> None:
        job, evaluation = active.job, active.job.evaluation
        assert evaluation is not None
        with memory_may_run_out() as attempt:
            evaluation.advance(self._base, self._room)
        if not attempt.fits:
            samples = evaluation.upcoming(self._room * self._crew.size)
            tokens = largest_part(samples, self._crew.size, self._room)
            self._make_do(tokens, active if len(samples) == 1 else None)
            return
        if not evaluation.done:
            return
        if evaluation.served:
            self._served(active)
            return
        best = job.end_evaluation()
        active.progress.resume_clock()
        if job.state.valid_loss == evaluation.valid_loss:  # finite: JSON has no other numbers
            self._send(
                Evaluated(
                    job_id=job.identity.job_id,
                    attempt=job.identity.attempt,
                    step=job.state.step,
                    valid_loss=evaluation.valid_loss,
                    base_valid_loss=evaluation.base_valid_loss,
                    accuracy=evaluation.accuracy,
                    reward_accuracy=evaluation.reward_accuracy,
                    best=best,
                )
            )
        self._after_step(active, evaluated=True)

    def _after_step(self, active: Active, *, evaluated: bool = False) -> None:
        lately = self._now - active.exported_at < self._limits.export_seconds
        wanted = active.job.wants_export(lately=lately)
        if wanted and not self._guarded(active, partial(self._exports.begin, now=self._now)):
            return
        if not active.job.trained and (
            evaluated or active.wants_checkpoint(self._now, self._pause)
        ):
            self._guarded(active, self._checkpoint)

    def _checkpoint(self, active: Active) -> None:
        active.progress.flush()
        seconds = checkpoint.save(active.job) if self._crew.rank == 0 else 0.0
        if self._checkpoint_took is None:
            self._pause = math.inf
        active.checkpointed_at, self._checkpoint_took = self._now, seconds
        of, step = active.job.identity, active.job.state.step
        self._send(Checkpointed(job_id=of.job_id, attempt=of.attempt, step=step, seconds=seconds))

    def _end(self) -> None:
        """What was exported is told of; trained jobs are published, those of one turn after one pass for all probes."""
        ended = []
        for active in list(self._active.values()):
            if not active.ended and not self._exports.ready(active):
                continue
            if not self._guarded(active, self._exports.tell) or not active.ended:
                continue
            active.progress.flush()
            if self._base.quantization is None or not active.job.wants_served_evaluation():
                ended.append(active)
            # It may take minutes on a large model, so that its steps are made durable first.
            elif self._guarded(active, self._checkpoint):
                active.job.begin_served_evaluation()
        if ended:
            self._publish(ended)

    def _publish(self, ended: Sequence[Active]) -> None:
        proven: list[Proven] = []

        def prove() -> None:
            jobs = [active.job for active in ended]
            proven.extend(probe_and_export(self._base, jobs, self._room))

        trouble = self._tried(prove, *ended)
        if trouble is not None:
            for active in ended:
                self._fail(active, "storage_error", trouble, retryable=True)
            return
        for active, own in zip(ended, proven, strict=True):
            self._guarded(active, partial(self._finish, proven=own))

    def _served(self, active: Active) -> None:
        """What is published has been evaluated as an engine will compute it."""
        if not active.job.end_served_evaluation():
            self._fail(active, "not_servable", NOT_A_NUMBER)
            return
        state = active.job.state
        log.info(
            "%s: held-out loss %.4f on the quantised base, %.4f as served",
            *(active.job.identity.job_id, state.best_valid_loss, state.served_valid_loss),
        )

    def _finish(self, active: Active, *, proven: Proven) -> None:
        finished = finish(self._base, active.job, proven)
        self.drop(finished.job_id)
        self._send(finished)

    def _guarded(self, active: Active, act: Callable[[Active], None]) -> bool:
        """A full disk is one job's trouble, not everyone's. Returns whether it went well."""
        trouble = self._tried(partial(act, active), active)
        if trouble is not None:
            self._fail(active, "storage_error", trouble, retryable=True)
        return trouble is None

    def _tried(self, act: Callable[[], None], *whose: Active) -> str | None:
        """What came in the way, if anything. Only the leader may see it, but all ranks have to know of it."""
        trouble: str | None = None
        try:
            act()
        except OSError as error:
            if isinstance(error, ConnectionError):  # the worker is gone
                raise
            job_ids = ", ".join(active.job.identity.job_id for active in whose)
            log.exception("files of %s cannot be written", job_ids)
            trouble = f"Files cannot be written: {error}"
        return self._crew.agree(trouble)

    def _fail(self, active: Active, code: str, message: str, *, retryable: bool = False) -> None:
        identity = active.job.identity
        active.progress.flush()
        self.drop(identity.job_id)
        self._send(
            Failed(
                job_id=identity.job_id,
                attempt=identity.attempt,
                code=code,
                message=message,
                retryable=retryable,
            )
        )

    def _make_do(self, tokens: int, alone: Active | None) -> None:
        """A pass did not fit: halve the budget; where it was one sample, compute layers twice; else give the job up."""
        self.budget.failed(tokens)
        log.warning("out of memory: token budget is now %d", self.budget.tokens)
        self._send(Squeezed(token_budget=self.budget.tokens))
        if alone is None:
            return
        if not alone.tight and alone.job.evaluation is None:
            log.warning("%s: gradient checkpointing from now on", alone.job.identity.job_id)
            alone.tight = True
            return
        self._fail(alone, "out_of_memory", does_not_fit(tokens, self.budget, alone.job))
