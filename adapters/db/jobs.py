"""Statements about jobs: submit, look up, and the writes of the attempt that holds the lease.

Every write of a worker names its attempt and touches a row only while the job is running under that attempt. A worker
that was thought dead and comes back finds its number outdated and gets LeaseLost (fencing token, as in Kleppmann's
"How to do distributed locking").
"""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Select, Update, and_, case, func, insert, or_, select, update

from adapters.db.endpoints import add_endpoint
from adapters.db.events import append_events
from adapters.db.notices import Topic, notify
from adapters.db.outbox import announce
from adapters.db.rows import (
    dump_dataset,
    dump_error,
    dump_job_webhook,
    dump_progress,
    dump_spec,
    to_job,
)
from adapters.db.schema import jobs
from adapters.db.tenancy import mine
from adapters.errors import JobNotCancellable, JobNotFound, LeaseLost
from adapters.records import (
    EventKind,
    Job,
    JobError,
    JobNote,
    JobStatus,
    NewEvent,
    NewJob,
    Phase,
    Progress,
)
from adapters.webhooks import Happening, JobWebhook, NewEndpoint, secret_hint

_QUEUED, _RUNNING = JobStatus.QUEUED.value, JobStatus.RUNNING.value
_PAUSED = JobStatus.PAUSED.value
#: Whether a process may still be training the job, whatever its status.
_IN_HAND = or_(jobs.c.status == _RUNNING, jobs.c.phase == Phase.STOPPING.value)


def add_job(tx: Connection, job: NewJob, now: float) -> Job:
    """Queue a job, and record its own webhook endpoint if it has one; a job that has an error has failed already."""
    status, phase = JobStatus.QUEUED, Phase.QUEUED
    ended: dict[str, Any] = {}
    if job.error is not None:
        status, phase = JobStatus.FAILED, Phase.ENDED
        ended = {"error": dump_error(job.error), "finished_at": now}
    row = tx.execute(
        insert(jobs)
        .values(
            id=job.id,
            adapter=job.adapter,
            base_model=job.base_model,
            training_file=job.training_file,
            validation_file=job.validation_file,
            spec=dump_spec(job.spec),
            dataset=dump_dataset(job.dataset),
            metadata=job.metadata,
            integrations=list(job.integrations) or None,
            status=status.value,
            phase=phase.value,
            progress=dump_progress(Progress()),
            created_at=now,
            webhook=dump_job_webhook(_remembered(job.webhook)) if job.webhook else None,
            tenant=job.tenant,
            priority=job.priority.value,
            **ended,
        )
        .returning(jobs)
    ).one()
    if job.webhook is not None:
        add_endpoint(tx, job.webhook, now, job_id=job.id, tenant=job.tenant)
    notify(tx, Topic.QUEUED)
    return to_job(row)


def _remembered(webhook: NewEndpoint) -> JobWebhook:
    return JobWebhook(
        id=webhook.id,
        url=webhook.url,
        event_types=webhook.event_types,
        secret_hint=secret_hint(webhook.secret),
    )


def get_job(tx: Connection, job_id: str) -> Job:
    """Look a job up.

    Raises:
        JobNotFound: there is none of that id.
    """
    row = tx.execute(select(jobs).where(jobs.c.id == job_id, mine(tx, jobs))).first()
    if row is None:
        raise JobNotFound(f"No fine-tuning job has the id '{job_id}'.", param="id")
    return to_job(row)


def list_jobs(
    tx: Connection,
    *,
    after: str | None,
    limit: int,
    metadata: Mapping[str, str] | None = None,
    bare: bool = False,
) -> list[Job]:
    """Newest first; `after` is the id of the last job of the page before.

    `metadata` keeps those that say so in theirs, `bare` those that have none.
    """
    query = select(jobs).where(mine(tx, jobs))
    query = query.order_by(jobs.c.created_at.desc(), jobs.c.id.desc())
    if after is not None:
        last = get_job(tx, after)
        query = query.where(
            or_(
                jobs.c.created_at < last.created_at,
                and_(jobs.c.created_at == last.created_at, jobs.c.id < last.id),
            )
        )
    if bare:
        query = query.where(jobs.c.metadata.is_(None))
    if metadata:
        query = query.where(jobs.c.id.in_(_matching(tx, query, metadata, limit)))
    return [to_job(row) for row in tx.execute(query.limit(limit))]


def _matching(
    tx: Connection, query: Select[Any], metadata: Mapping[str, str], limit: int
) -> list[str]:
    """The ids of the first jobs whose metadata says so.

    Compared here, at some microseconds a job: older releases of SQLite find no key that is not plain ASCII.
    """
    found: list[str] = []
    for row in tx.execute(
        query.where(jobs.c.metadata.is_not(None)).with_only_columns(jobs.c.id, jobs.c.metadata)
    ):
        if metadata.items() <= row.metadata.items():
            found.append(row.id)
            if len(found) == limit:
                break
    return found


def count_jobs(tx: Connection) -> dict[str, int]:
    """How many jobs there are in each status."""
    query = select(jobs.c.status, func.count()).where(mine(tx, jobs))
    rows = tx.execute(query.group_by(jobs.c.status))
    counts: dict[str, int] = {status.value: 0 for status in JobStatus}
    return counts | {row[0]: row[1] for row in rows}


def _of_attempt(job_id: str, attempt: int) -> Update:
    return update(jobs).where(
        jobs.c.id == job_id, jobs.c.attempt == attempt, jobs.c.status == _RUNNING
    )


def write_as(tx: Connection, job_id: str, attempt: int, **values: Any) -> Job:
    """Write as the attempt that holds the job.

    Raises:
        LeaseLost: it does not hold the job any more.
    """
    row = tx.execute(_of_attempt(job_id, attempt).values(**values).returning(jobs)).first()
    if row is None:
        raise LeaseLost(f"Attempt {attempt} of {job_id} no longer holds the job.")
    return to_job(row)


def renew_lease(tx: Connection, job_id: str, attempt: int, *, until: float) -> None:
    """Prove that the worker lives.

    Raises:
        LeaseLost: the job was cancelled, or belongs to a later attempt.
    """
    write_as(tx, job_id, attempt, lease_expires_at=until)


def take_note(tx: Connection, note: JobNote, now: float) -> None:
    """Store how far the job is, and what there is to tell. A checkpoint beyond where it was lost clears it.

    Raises:
        LeaseLost: as above. Nothing was written.
    """
    job = note.job
    write_as(
        tx,
        job.id,
        job.attempt,
        phase=note.phase.value,
        progress=dump_progress(note.progress),
        losses=case((jobs.c.lost_at < (note.checkpoint or 0), 0), else_=jobs.c.losses),
    )
    append_events(tx, job.id, note.events, now)


def held_ids(tx: Connection, held: Sequence[Job]) -> set[str]:
    """Those of the jobs that still run under the attempt that is given."""
    query = select(jobs.c.id, jobs.c.attempt).where(
        jobs.c.id.in_([job.id for job in held]), jobs.c.status == _RUNNING
    )
    running = {row.id: row.attempt for row in tx.execute(query)}
    return {job.id for job in held if running.get(job.id) == job.attempt}


def fail_job(tx: Connection, job_id: str, attempt: int, error: JobError, now: float) -> None:
    """End the job as failed.

    Raises:
        LeaseLost: as above.
    """
    failed = write_as(
        tx,
        job_id,
        attempt,
        status=JobStatus.FAILED.value,
        phase=Phase.ENDED.value,
        error=dump_error(error),
        finished_at=now,
        lease_expires_at=None,
    )
    append_events(
        tx,
        job_id,
        [
            NewEvent(
                kind=EventKind.ERROR,
                level="error",
                message=error.message,
                data={"code": error.code, "param": error.param},
            )
        ],
        now,
    )
    announce(tx, failed, Happening.FAILED, now)


def settle_job(
    tx: Connection, job_id: str, attempt: int, *, model: str, trained_tokens: int, now: float
) -> Job:
    """End the job as succeeded, with the version that it published in the same transaction.

    Raises:
        LeaseLost: as above.
    """
    settled = write_as(
        tx,
        job_id,
        attempt,
        status=JobStatus.SUCCEEDED.value,
        phase=Phase.ENDED.value,
        fine_tuned_model=model,
        trained_tokens=trained_tokens,
        finished_at=now,
        lease_expires_at=None,
    )
    announce(tx, settled, Happening.ADAPTER_READY, now)
    announce(tx, settled, Happening.SUCCEEDED, now)
    return settled


def hold_job(tx: Connection, job_id: str, attempt: int) -> Job:
    """Lock the job's row for the rest of the transaction, if the attempt still holds it.

    Raises:
        LeaseLost: as above.
    """
    return write_as(tx, job_id, attempt, phase=Phase.PUBLISHING.value)


def cancel_job(tx: Connection, job_id: str, now: float) -> Job:
    """End the job as cancelled, at once; a worker that holds it learns so from its next write.

    Raises:
        JobNotFound: there is none of that id.
        JobNotCancellable: it has succeeded or failed. Cancelling twice is no error.
    """
    row = tx.execute(
        update(jobs)
        .where(
            jobs.c.id == job_id,
            jobs.c.status.in_([_QUEUED, _RUNNING, _PAUSED]),
            mine(tx, jobs),
        )
        .values(
            status=JobStatus.CANCELLED.value,
            phase=case((_IN_HAND, Phase.STOPPING.value), else_=Phase.ENDED.value),
            finished_at=now,
            lease_expires_at=None,
        )
        .returning(jobs)
    ).first()
    if row is None:
        job = get_job(tx, job_id)
        if job.status is not JobStatus.CANCELLED:
            raise JobNotCancellable(f"The job {job_id} has already {job.status.value}.", param="id")
        return job
    event = NewEvent(kind=EventKind.STATUS, message="Fine-tuning job cancelled")
    append_events(tx, job_id, [event], now)
    announce(tx, to_job(row), Happening.CANCELLED, now)
    return get_job(tx, job_id)
