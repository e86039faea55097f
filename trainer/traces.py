"""Jobs as traces: from the order to the version, in steps that one may wait for; a step of training is not one of them.

    graft.job                 from its submission to its end
      graft.job.queued        until it was taken up for the first time
      graft.job.attempt       while a worker held it
        graft.job.training    from the first step to what is published, or to the end of the attempt
        graft.job.publish     the gate, the store, the transaction
      graft.adapter.activate  the service has the engine load it

Where each of them stands follows from the job's id (`place_of_job`), so that the request that submitted it can point
there, and a job has one trace however many processes take part in it. Jobs are few, so all are told.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from adapters.records import Job, Progress
from adapters.traces import NOTHING, About, Span, Tracer, place_of_job


@dataclass(slots=True)
class _Attempt:
    """What is under way of a job that is in hand."""

    span: Span
    training: Span = NOTHING
    progress: Progress | None = None

    def rest(self) -> None:
        """Training is over."""
        if self.progress is not None:
            self.training.note(_about_progress(self.progress))
        self.training.end()
        self.training = NOTHING


class JobTraces:
    """The jobs of one worker."""

    def __init__(self, tracer: Tracer | None = None) -> None:
        self._tracer = tracer or Tracer()
        self._attempts: dict[str, _Attempt] = {}

    def claimed(self, job: Job, now: float) -> None:
        """It was taken up, for the first time or again."""
        if not self._tracer.on:
            return
        place, about = place_of_job(job.id), _about(job)
        if job.attempt == 1:
            waited = self._tracer.begin_at(place, "graft.job.queued", about, since=job.created_at)
            waited.end()
        span = self._tracer.begin_at(place, "graft.job.attempt", about, since=now)
        self._attempts[job.id] = _Attempt(span)

    def started(self, job: Job, step: int) -> None:
        """It trains, after so many steps that are done already."""
        if (attempt := self._attempts.get(job.id)) is not None:
            about = {"graft.job.resumed_from_step": step}
            attempt.training = attempt.span.begin("graft.job.training", about)

    def stepped(self, job: Job, progress: Progress) -> None:
        """It has got to this step."""
        if (attempt := self._attempts.get(job.id)) is not None:
            attempt.progress = progress

    @contextmanager
    def publishing(self, job: Job, gate: str) -> Iterator[None]:
        """Inside the context it becomes a version, and has succeeded if nothing is raised. What the gate says of it."""
        attempt = self._attempts.get(job.id)
        if attempt is None:
            yield
            return
        attempt.rest()
        with attempt.span.begin("graft.job.publish") as span:
            span.event("gate", {"graft.gate": gate})
            yield
        self.ended(job)

    def ended(self, job: Job, failed: str = "") -> None:
        """It has, well or with that code; its trace is whole."""
        about = _about(job)
        self._tracer.tell(
            place_of_job(job.id), "graft.job", about, since=job.created_at, failed=failed
        )

    def let_go(self, job: Job) -> None:
        """The worker holds it no longer."""
        if (attempt := self._attempts.pop(job.id, None)) is not None:
            attempt.rest()
            attempt.span.end()


def _about(job: Job) -> About:
    return {
        "graft.job.id": job.id,
        "graft.job.attempt": job.attempt,
        "graft.tenant": job.tenant,
        "graft.adapter": job.adapter,
        "graft.base_model": job.base_model,
    }


def _about_progress(progress: Progress) -> About:
    known: dict[str, int | float | None] = {
        "graft.job.step": progress.step,
        "graft.job.total_steps": progress.total_steps,
        "graft.job.tokens": progress.tokens_seen,
        "graft.job.train_loss": progress.train_loss,
        "graft.job.valid_loss": progress.valid_loss,
    }
    return {name: value for name, value in known.items() if value is not None}
