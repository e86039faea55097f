"""The queue of jobs, from both sides: those who ask, and the worker that does."""

from collections.abc import Callable, Sequence

from adapters.clock import Clock
from adapters.db import events as event_rows, jobs as job_rows, registry, replies
from adapters.db.connect import Conflict, Database
from adapters.errors import InvalidValue
from adapters.records import (
    Event,
    EventKind,
    IdempotencyKey,
    Job,
    JobError,
    JobStatus,
    NewEvent,
    NewJob,
    Phase,
    Progress,
    Reply,
)


class JobQueue:
    """Jobs, from both sides: those who ask, and the worker that does."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._db, self._clock = database, clock

    def find_reply(self, key: IdempotencyKey) -> Reply | None:
        """What a repeated request gets back. Raises IdempotencyKeyReused."""
        with self._db.read() as tx:
            return replies.find_reply(tx, key, self._clock())

    def submit(
        self, new: NewJob, *, key: IdempotencyKey | None = None, render: Callable[[Job, int], Reply]
    ) -> Reply:
        """Queue a job and store what is answered, in one transaction. Two requests with one key make one job.

        `render` is given the job and its place in the queue.

        Raises:
            IdempotencyKeyReused: the key came with another request before.
            InvalidValue: the adapter belongs to another base model.
        """
        try:
            with self._db.write() as tx:
                now = self._clock()
                owner = registry.base_model_of(tx, new.adapter)
                if owner not in {None, new.base_model}:
                    raise InvalidValue(
                        f"The adapter '{new.adapter}' belongs to the base model '{owner}'. "
                        "Choose another name, or that base model.",
                        param="name",
                    )
                job = job_rows.add_job(tx, new, now)
                event_rows.append_events(tx, job.id, _created(job), now)
                reply = render(job, job_rows.queue_position(tx, job))
                if key is not None:
                    replies.store_reply(tx, key, reply, now)
                return reply
        except Conflict:
            # The other request with this key has committed first: answer as it was answered.
            stored = self.find_reply(key) if key is not None else None
            if stored is None:
                raise
            return stored

    def get(self, job_id: str) -> Job:
        """Raises JobNotFound."""
        with self._db.read() as tx:
            return job_rows.get_job(tx, job_id)

    def list(self, *, after: str | None = None, limit: int = 20) -> Sequence[Job]:
        """Newest first. Raises JobNotFound for an unknown `after`."""
        with self._db.read() as tx:
            return job_rows.list_jobs(tx, after=after, limit=limit)

    def position(self, job: Job) -> int | None:
        """The place in the queue, from 1; None for a job that does not wait."""
        if job.status is not JobStatus.QUEUED:
            return None
        with self._db.read() as tx:
            return job_rows.queue_position(tx, job)

    def count(self) -> dict[str, int]:
        """Jobs by status."""
        with self._db.read() as tx:
            return job_rows.count_jobs(tx)

    def events(self, job_id: str, *, after: int = 0, limit: int = 1000) -> Sequence[Event]:
        """The job's log after a sequence number, oldest first."""
        with self._db.read() as tx:
            return event_rows.list_events(tx, job_id, after=after, limit=limit)

    def cancel(self, job_id: str) -> Job:
        """End the job at once. Raises JobNotFound, JobNotCancellable."""
        with self._db.write() as tx:
            return job_rows.cancel_job(tx, job_id, self._clock())

    def claim(
        self, *, worker: str, base_model: str, lease_seconds: float, max_losses: int
    ) -> Job | None:
        """Take the next job of a base model, or None. One that its process has died of too often fails instead."""
        with self._db.write() as tx:
            now = self._clock()
            while True:
                job = job_rows.claim_job(
                    tx, worker=worker, base_model=base_model, now=now, lease_seconds=lease_seconds
                )
                if job is None or job.losses < max_losses:
                    break
                error = JobError(
                    code="worker_lost",
                    message=f"The training process died {job.losses} times at this point of the job. "
                    "The trainer's log says how; out of memory is the usual reason.",
                )
                job_rows.fail_job(tx, job.id, job.attempt, error, now)
            if job is not None:
                first = job.attempt == 1
                told = "Fine-tuning job started" if first else f"Attempt {job.attempt} started"
                event = NewEvent(kind=EventKind.STATUS, message=told, data={"attempt": job.attempt})
                event_rows.append_events(tx, job.id, [event], now)
            return job

    def renew(self, job_id: str, attempt: int, *, lease_seconds: float) -> None:
        """Prove that the worker lives. Raises LeaseLost."""
        with self._db.write() as tx:
            job_rows.renew_lease(tx, job_id, attempt, until=self._clock() + lease_seconds)

    def record(
        self,
        job: Job,
        *,
        phase: Phase,
        progress: Progress,
        events: Sequence[NewEvent] = (),
        checkpointed: bool = False,
    ) -> None:
        """Store how far a job is. Raises LeaseLost."""
        with self._db.write() as tx:
            job_rows.record_progress(tx, job.id, job.attempt, phase=phase, progress=progress)
            if checkpointed:
                job_rows.forget_losses(tx, job.id, job.attempt)
            event_rows.append_events(tx, job.id, events, self._clock())

    def fail(self, job_id: str, attempt: int, error: JobError) -> None:
        """End a job as failed. Raises LeaseLost."""
        with self._db.write() as tx:
            job_rows.fail_job(tx, job_id, attempt, error, self._clock())

    def requeue(self, job: Job, *, reason: str, lost: bool, delay: float = 0.0) -> None:
        """Give a job back; `lost` counts towards the losses that it may have in a row. Raises LeaseLost."""
        with self._db.write() as tx:
            now = self._clock()
            job_rows.requeue_job(tx, job, lost=lost, not_before=now + delay, reason=reason, now=now)

    def take_back(self, worker: str) -> int:
        """Requeue what an earlier process of this worker still holds; only for who is that worker now."""
        with self._db.write() as tx:
            now = self._clock()
            left = job_rows.jobs_of_worker(tx, worker)
            for job in left:
                job_rows.requeue_job(
                    tx,
                    job,
                    lost=True,
                    not_before=now,
                    reason="The trainer was restarted; continuing from the last checkpoint",
                    now=now,
                )
            return len(left)

    def confirm_stopped(self, job_id: str) -> None:
        """Record that no worker trains a cancelled job any more."""
        with self._db.write() as tx:
            job_rows.confirm_stopped(tx, job_id)


def _created(job: Job) -> list[NewEvent]:
    created = NewEvent(kind=EventKind.STATUS, message=f"Created fine-tuning job: {job.id}")
    if not job.dataset.ignored_fields:
        return [created]
    names = ", ".join(job.dataset.ignored_fields)
    told = f"These fields of the data are not used: {names}"
    return [created, NewEvent(kind=EventKind.MESSAGE, level="warn", message=told)]
