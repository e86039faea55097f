"""Statements about stopping for a while, and about the moment at which a worker has let go of a job.

A job that runs is asked to pause: it is `paused` at once, and `stopping` until its worker says that it has let go. The
attempt keeps its number, its worker and its lease meanwhile. So a job that is resumed in between is simply held again,
and one whose worker is gone is claimed when the lease has run out, like any other.
"""

from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, case, or_, update

from adapters.db.events import append_events
from adapters.db.jobs import get_job
from adapters.db.notices import Topic, notify
from adapters.db.outbox import announce
from adapters.db.rows import dump_progress
from adapters.db.schema import jobs
from adapters.db.tenancy import mine
from adapters.errors import JobNotPausable, JobNotResumable, LeaseLost
from adapters.records import (
    EventKind,
    Job,
    JobNote,
    JobStatus,
    NewEvent,
    Phase,
)
from adapters.webhooks import Happening

_QUEUED, _RUNNING = JobStatus.QUEUED.value, JobStatus.RUNNING.value
_PAUSED, _CANCELLED = JobStatus.PAUSED.value, JobStatus.CANCELLED.value
_STOPPING = jobs.c.phase == Phase.STOPPING.value


def pause_job(tx: Connection, job_id: str, now: float) -> Job:
    """Let nobody train the job until it is resumed; a worker that holds it learns so when it looks.

    Raises:
        JobNotFound: there is none of that id.
        JobNotPausable: it has ended. Pausing twice is no error.
    """
    running = jobs.c.status == _RUNNING
    found = _change(
        tx,
        job_id,
        jobs.c.status.in_([_QUEUED, _RUNNING]),
        status=_PAUSED,
        phase=case((running, Phase.STOPPING.value), else_=Phase.PAUSED.value),
    )
    if not found:
        job = get_job(tx, job_id)
        if job.status is not JobStatus.PAUSED:
            raise JobNotPausable(f"The job {job_id} has already {_ended(job)}.", param="id")
        return job
    paused = _told(tx, job_id, "Fine-tuning job paused", now)
    announce(tx, paused, Happening.PAUSED, now)
    return paused


def resume_job(tx: Connection, job_id: str, now: float) -> Job:
    """Let the job go on: with its worker, where that has not let go yet; else in its old place in the queue.

    Raises:
        JobNotFound: there is none of that id.
        JobNotResumable: it is not paused.
    """
    found = _change(
        tx,
        job_id,
        jobs.c.status == _PAUSED,
        status=case((_STOPPING, _RUNNING), else_=_QUEUED),
        phase=case((_STOPPING, Phase.PREPARING.value), else_=Phase.QUEUED.value),
    )
    if not found:
        job = get_job(tx, job_id)
        raise JobNotResumable(f"The job {job_id} is not paused: it is {job.status}.", param="id")
    notify(tx, Topic.QUEUED)
    return _told(tx, job_id, "Fine-tuning job resumed", now)


def hold_while_stopping(tx: Connection, job: Job) -> None:
    """Lock the job's row for the rest of the transaction, if the attempt holds it or is asked to pause it.

    Raises:
        LeaseLost: it was cancelled, or belongs to a later attempt.
    """
    held = or_(jobs.c.status == _RUNNING, and_(jobs.c.status == _PAUSED, _STOPPING))
    mine = and_(jobs.c.attempt == job.attempt, held)
    if not _change(tx, job.id, mine, attempt=job.attempt):
        raise LeaseLost(f"Attempt {job.attempt} of {job.id} no longer holds the job.")


def let_go(tx: Connection, note: JobNote, now: float) -> None:
    """Record that the worker trains the job no longer, with its last word if it was asked to pause."""
    job = note.job
    mine = and_(jobs.c.status == _PAUSED, _STOPPING, jobs.c.attempt == job.attempt)
    paused = _change(
        tx,
        job.id,
        mine,
        phase=Phase.PAUSED.value,
        progress=dump_progress(note.progress),
        losses=case((jobs.c.lost_at < (note.checkpoint or 0), 0), else_=jobs.c.losses),
        worker=None,
        lease_expires_at=None,
    )
    if paused:
        append_events(tx, job.id, note.events, now)
    _change(tx, job.id, jobs.c.status == _CANCELLED, phase=Phase.ENDED.value)


def let_go_of_all(tx: Connection, worker: str) -> None:
    """Record that what a worker of that name was to stop when it was killed has stopped."""
    tx.execute(
        update(jobs)
        .where(jobs.c.worker == worker, _STOPPING)
        .values(
            phase=case((jobs.c.status == _PAUSED, Phase.PAUSED.value), else_=Phase.ENDED.value),
            worker=None,
            lease_expires_at=None,
        )
    )


def _change(tx: Connection, job_id: str, condition: ColumnElement[bool], **values: Any) -> bool:
    changed = update(jobs).where(jobs.c.id == job_id, mine(tx, jobs), condition).values(**values)
    return tx.execute(changed.returning(jobs.c.id)).first() is not None


def _told(tx: Connection, job_id: str, message: str, now: float) -> Job:
    append_events(tx, job_id, [NewEvent(kind=EventKind.STATUS, message=message)], now)
    return get_job(tx, job_id)


def _ended(job: Job) -> str:
    return "been cancelled" if job.status is JobStatus.CANCELLED else job.status.value
