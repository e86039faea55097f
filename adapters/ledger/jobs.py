"""The queue of jobs, from both sides: those who ask, and the worker that does."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from adapters.clock import Clock
from adapters.db import (
    events as event_rows,
    jobs as job_rows,
    outbox,
    owners,
    pausing,
    queue,
    registry,
    replies,
    sendings,
    standing,
    use,
)
from adapters.db.connect import Conflict, Database
from adapters.db.locks import Turn, take_turn
from adapters.demand import Place, Sending
from adapters.errors import InvalidValue, LeaseLost
from adapters.records import (
    Event,
    EventKind,
    IdempotencyKey,
    Job,
    JobError,
    JobNote,
    NewEvent,
    NewJob,
    Reply,
)
from adapters.settings import QueueSettings
from adapters.webhooks import Happening


class JobQueue:
    """Jobs, from both sides: those who ask, and the worker that does."""

    def __init__(self, database: Database, clock: Clock, rules: QueueSettings) -> None:
        self._db, self._clock, self._rules = database, clock, rules
        self._half_life = rules.half_life_seconds

    def find_reply(self, key: IdempotencyKey) -> Reply | None:
        """What a repeated request gets back. Raises IdempotencyKeyReused."""
        with self._db.read() as tx:
            return replies.find_reply(tx, key, self._clock())

    def find_sent(self, sending: Sending) -> Job | None:
        """The job that an earlier sending of the same request has made."""
        with self._db.read() as tx:
            made = sendings.find_made(tx, sending, self._clock())
            return None if made is None else job_rows.get_job(tx, made)

    def require_owner(self, adapter: str, base_model: str) -> None:
        """Look whether an adapter of that base model may have this name. Raises InvalidValue."""
        with self._db.read() as tx:
            _check_owner(adapter, base_model, registry.base_model_of(tx, adapter))

    def submit(
        self,
        new: NewJob,
        *,
        key: IdempotencyKey | None = None,
        sending: Sending | None = None,
        most_waiting: int | None = None,
        render: Callable[[Job, Place | None], Reply],
    ) -> Reply:
        """Queue a job and store what is answered, in one transaction. Two requests with one key make one job.

        So do two sendings of one request. `render` is given the job and its place in the queue, if it waits. A job with
        an error has failed from the start, and needs no place. In a tenant's ledger it is the tenant's.

        Raises:
            AdapterNameConflict: the adapter is another tenant's.
            IdempotencyKeyReused: the key came with another request before.
            InvalidValue: the adapter belongs to another base model.
            QueueFull: `most_waiting` jobs wait already.
            OverQuota: as many of the tenant's wait as may.
        """
        try:
            return self._submit(new, key, sending, most_waiting, render)
        except Conflict:
            # The other request with this key has committed first: answer as it was answered.
            stored = self.find_reply(key) if key is not None else None
            if stored is not None:
                return stored
        # Or the other sending of this request, or who claims the name too: what they wrote is there to be found now.
        return self._submit(new, key, sending, most_waiting, render)

    def _submit(
        self,
        new: NewJob,
        key: IdempotencyKey | None,
        sending: Sending | None,
        most_waiting: int | None,
        render: Callable[[Job, Place | None], Reply],
    ) -> Reply:
        if self._db.tenant is not None:
            new = replace(new, tenant=self._db.tenant)
        with self._db.write() as tx:
            now = self._clock()
            if sending is not None:
                made = sendings.claim_sending(tx, sending, new.id, now)
                if made is not None:
                    job = job_rows.get_job(tx, made)
                    return render(job, standing.place_of(tx, job, now, self._rules))
            owners.claim_name(tx, new.adapter, new.base_model, new.tenant, now)
            _check_owner(new.adapter, new.base_model, registry.base_model_of(tx, new.adapter))
            if most_waiting is not None and new.error is None:
                take_turn(tx, Turn.SUBMITTING)
                standing.require_room(
                    tx, new.tenant, most_waiting=most_waiting, now=now, rules=self._rules
                )
            job = job_rows.add_job(tx, new, now)
            event_rows.append_events(tx, job.id, _created(job, new), now)
            if job.error is not None:
                outbox.announce(tx, job, Happening.FAILED, now)
            reply = render(job, standing.place_of(tx, job, now, self._rules))
            if key is not None:
                replies.store_reply(tx, key, reply, now)
            return reply

    def get(self, job_id: str) -> Job:
        """Raises JobNotFound."""
        with self._db.read() as tx:
            return job_rows.get_job(tx, job_id)

    def list(
        self,
        *,
        after: str | None = None,
        limit: int = 20,
        metadata: Mapping[str, str] | None = None,
        bare: bool = False,
    ) -> Sequence[Job]:
        """Newest first: all, those whose metadata says so, or those that have none (`bare`).

        Raises JobNotFound for an unknown `after`.
        """
        with self._db.read() as tx:
            return job_rows.list_jobs(tx, after=after, limit=limit, metadata=metadata, bare=bare)

    def count(self) -> dict[str, int]:
        """Jobs by status."""
        with self._db.read() as tx:
            return job_rows.count_jobs(tx)

    def events(self, job_id: str, *, after: int = 0, limit: int = 1000) -> Sequence[Event]:
        """The job's log after a sequence number, oldest first."""
        with self._db.read() as tx:
            return event_rows.list_events(tx, job_id, after=after, limit=limit)

    def latest_events(
        self, job_id: str, *, before: int | None = None, limit: int = 20
    ) -> Sequence[Event]:
        """The job's log before a sequence number, newest first."""
        with self._db.read() as tx:
            return event_rows.list_latest(tx, job_id, before=before, limit=limit)

    def cancel(self, job_id: str) -> Job:
        """End the job at once. Raises JobNotFound, JobNotCancellable."""
        with self._db.write() as tx:
            now = self._clock()
            use.charge_jobs(tx, [job_id], now=now, half_life=self._half_life)
            return job_rows.cancel_job(tx, job_id, now)

    def pause(self, job_id: str) -> Job:
        """Let nobody train the job until it is resumed. Raises JobNotFound, JobNotPausable."""
        with self._db.write() as tx:
            now = self._clock()
            use.charge_jobs(tx, [job_id], now=now, half_life=self._half_life)
            return pausing.pause_job(tx, job_id, now)

    def resume(self, job_id: str) -> Job:
        """Let a paused job go on, in its old place in the queue. Raises JobNotFound, JobNotResumable."""
        with self._db.write() as tx:
            return pausing.resume_job(tx, job_id, self._clock())

    def waits(self, *, base_model: str, alone: bool, max_losses: int) -> bool:
        """Whether `claim` would find a job. A read, so that looking for work holds up nobody who writes."""
        with self._db.read() as tx:
            return queue.waits(
                tx,
                base_model=base_model,
                now=self._clock(),
                alone=alone,
                max_losses=max_losses,
                rules=self._rules,
            )

    def suspects_wait(self, *, base_model: str) -> bool:
        """Whether a suspect waits for a process of its own."""
        with self._db.read() as tx:
            return queue.suspects_wait(tx, base_model=base_model, now=self._clock())

    def claim(
        self,
        *,
        worker: str,
        base_model: str,
        lease_seconds: float,
        max_losses: int,
        alone: bool = True,
    ) -> Job | None:
        """Take the next job of a base model, or None. One that was lost too often fails instead.

        `alone` says that the worker has no other job: suspects come first then. Otherwise none is taken, and nobody
        overtakes a suspect that is first in the queue.
        """
        with self._db.write() as tx:
            now = self._clock()
            use.charge_worker(tx, worker, now=now, half_life=self._half_life)
            while True:
                job = queue.claim_job(
                    tx,
                    worker=worker,
                    base_model=base_model,
                    now=now,
                    lease_seconds=lease_seconds,
                    alone=alone,
                    max_losses=max_losses,
                    rules=self._rules,
                )
                if job is None or job.losses < max_losses:
                    break
                job_rows.fail_job(tx, job.id, job.attempt, _lost_too_often(job), now)
            if job is not None:
                event_rows.append_events(tx, job.id, [_claimed(job)], now)
                outbox.announce(tx, job, Happening.RUNNING, now)
            return job

    def renew(self, held: Sequence[Job], *, lease_seconds: float) -> set[str]:
        """Prove that the worker lives. Returns the ids of the jobs that it holds no longer."""
        lost = set()
        with self._db.write() as tx:
            now = self._clock()
            use.charge_jobs(tx, [job.id for job in held], now=now, half_life=self._half_life)
            until = now + lease_seconds
            for job in held:
                try:
                    job_rows.renew_lease(tx, job.id, job.attempt, until=until)
                except LeaseLost:
                    lost.add(job.id)
        return lost

    def lost(self, held: Sequence[Job]) -> set[str]:
        """The ids of those that were cancelled or paused, or belong to a later attempt. A read."""
        with self._db.read() as tx:
            return {job.id for job in held} - job_rows.held_ids(tx, held)

    def record(self, notes: Sequence[JobNote]) -> set[str]:
        """Store how far jobs are, in one transaction. Returns the ids of those that the attempts hold no longer."""
        lost = set()
        with self._db.write() as tx:
            now = self._clock()
            for note in notes:
                try:
                    job_rows.take_note(tx, note, now)
                except LeaseLost:
                    lost.add(note.job.id)
        return lost

    def fail(self, job_id: str, attempt: int, error: JobError) -> None:
        """End a job as failed. Raises LeaseLost."""
        with self._db.write() as tx:
            now = self._clock()
            use.charge_jobs(tx, [job_id], now=now, half_life=self._half_life)
            job_rows.fail_job(tx, job_id, attempt, error, now)

    def requeue(
        self, notes: Sequence[JobNote], *, reason: str, lost: bool, delay: float = 0.0
    ) -> None:
        """Give jobs back; `lost` counts. A job that was cancelled or paused meanwhile has stopped now."""
        with self._db.write() as tx:
            now = self._clock()
            use.charge_jobs(tx, [note.job.id for note in notes], now=now, half_life=self._half_life)
            for note in notes:
                try:
                    job_rows.take_note(tx, note, now)
                    queue.requeue_job(
                        tx, note.job, lost=lost, not_before=now + delay, reason=reason, now=now
                    )
                except LeaseLost:
                    pausing.let_go(tx, note, now)

    def take_back(self, worker: str) -> int:
        """Requeue what an earlier process of this worker still holds; only for who is that worker now.

        What it was to stop, paused or cancelled, has stopped.
        """
        reason = "The trainer was restarted; continuing from the last checkpoint"
        with self._db.write() as tx:
            taken = queue.take_back_jobs(tx, worker, reason=reason, now=self._clock())
            pausing.let_go_of_all(tx, worker)
            return taken


def _check_owner(adapter: str, base_model: str, owner: str | None) -> None:
    if owner not in {None, base_model}:
        raise InvalidValue(
            f"The adapter '{adapter}' belongs to the base model '{owner}'. "
            "Choose another name, or that base model.",
            param="name",
        )


def _created(job: Job, new: NewJob) -> list[NewEvent]:
    """The beginning of the log, in OpenAI's words: clients look for them."""
    told = [
        NewEvent(kind=EventKind.STATUS, message=f"Created fine-tuning job: {job.id}"),
        NewEvent(kind=EventKind.STATUS, message=f"Validating training file: {job.training_file}"),
    ]
    if new.error is not None:
        data = {"code": new.error.code, "param": new.error.param, "details": list(new.problems)}
        return [
            *told,
            NewEvent(kind=EventKind.ERROR, level="error", message=new.error.message, data=data),
        ]
    if job.dataset.ignored_fields:
        names = ", ".join(job.dataset.ignored_fields)
        message = f"These fields of the data are not used: {names}"
        told.append(NewEvent(kind=EventKind.MESSAGE, level="warn", message=message))
    validated = "Files validated, moving job to queued state"
    return [*told, NewEvent(kind=EventKind.STATUS, message=validated)]


def _claimed(job: Job) -> NewEvent:
    told = "Fine-tuning job started" if job.attempt == 1 else f"Attempt {job.attempt} started"
    if job.suspect:
        told += f", alone: the job was lost {job.losses} times in a row and must get past step {job.lost_at}"
    return NewEvent(kind=EventKind.STATUS, message=told, data={"attempt": job.attempt})


def _lost_too_often(job: Job) -> JobError:
    return JobError(
        code="worker_lost",
        message=f"The training process died {job.losses} times at this point of the job, at last with no other job "
        "in it, or could not write its files. The trainer's log says how; out of memory is the usual reason.",
    )
