"""What the worker is told of a job's progress: often enough to watch, seldom enough not to cost anything."""

import time
from collections.abc import Callable
from typing import TypeAlias

from adapters.records import Progress
from trainer.messages import JobReport, Stepped, Word
from trainer.warm.job import Job, StepDone

Send: TypeAlias = Callable[[JobReport | Word], None]

#: Seconds between two `Stepped` of one job.
INTERVAL = 0.2
#: Of the newest step in the moving averages of speed.
WEIGHT = 0.2


class ProgressReporter:
    """Reports the steps of one job: the first and the last always, those between at most five a second."""

    def __init__(self, send: Send, clock: Callable[[], float] = time.monotonic) -> None:
        self._send = send
        self._clock = clock
        self._step_began = clock()
        self._reported_at = float("-inf")
        self._held: Stepped | None = None
        self._step_seconds: float | None = None
        self._tokens_per_second: float | None = None

    def stepped(self, job: Job, done: StepDone) -> None:
        """Take note of a step, and report it unless another was reported just now."""
        now = self._clock()
        self._measure(now - self._step_began, done.tokens)
        job.state.seconds += now - self._step_began
        self._step_began = now
        if done.skipped:  # neither loss nor norm is a number that JSON can carry
            return
        self._held = Stepped(
            job_id=job.identity.job_id,
            attempt=job.identity.attempt,
            progress=self._progress(job),
            learning_rate=done.learning_rate,
            grad_norm=done.grad_norm,
        )
        if now - self._reported_at >= INTERVAL:
            self.flush()

    def flush(self) -> None:
        """Report the latest step if that has not been done. Call before reporting anything else of the job."""
        if self._held is not None:
            self._send(self._held)
            self._held = None
            self._reported_at = self._clock()

    def resume_clock(self) -> None:
        """Do not count the time since the last step (an evaluation) as part of the next."""
        self._step_began = self._clock()

    def _measure(self, seconds: float, tokens: int) -> None:
        rate = tokens / max(seconds, 1e-9)
        self._step_seconds = _average(self._step_seconds, seconds)
        self._tokens_per_second = _average(self._tokens_per_second, rate)

    def _progress(self, job: Job) -> Progress:
        state = job.state
        left = job.total_steps - state.step
        return Progress(
            step=state.step,
            total_steps=job.total_steps,
            epoch=state.step / job.steps_per_epoch,
            percent=100.0 * state.step / job.total_steps,
            tokens_seen=state.tokens_seen,
            train_loss=state.last_loss,
            train_accuracy=state.last_accuracy,
            valid_loss=state.valid_loss,
            valid_accuracy=state.valid_accuracy,
            base_valid_loss=state.base_valid_loss,
            reward_accuracy=state.reward_accuracy,
            tokens_per_second=self._tokens_per_second,
            eta_seconds=None if self._step_seconds is None else self._step_seconds * left,
        )


def _average(old: float | None, new: float) -> float:
    return new if old is None else (1 - WEIGHT) * old + WEIGHT * new
