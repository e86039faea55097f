"""Statements about the queue: which job comes next, and what a job that is given back has lost.

A job is lost when its training process dies, or when its worker does. Both count, in a row, until the job gets further:
until a checkpoint beyond the step at which it was lost (`jobs.take_note`). A process that dies says something about the
jobs in it; a worker that is gone, hardly: it counts only for a job that has not got further since it was last lost.
"""

from typing import Any

from sqlalchemy import Connection, Select, and_, case, func, or_, select, update

from adapters.db.events import append_events
from adapters.db.jobs import write_as
from adapters.db.notices import Topic, notify
from adapters.db.rows import to_job
from adapters.db.schema import jobs
from adapters.demand import QueueLoad
from adapters.errors import QueueFull
from adapters.records import (
    SUSPECT_LOSSES,
    EventKind,
    Job,
    JobStatus,
    NewEvent,
    Phase,
)

_QUEUED, _RUNNING = JobStatus.QUEUED.value, JobStatus.RUNNING.value
#: Seconds after which to ask again for a place among the waiting: at most, and where nobody can tell.
_LONGEST_WAIT_S, _UNKNOWN_WAIT_S = 600.0, 60.0
_STEP = jobs.c.progress["step"].as_integer()
_FURTHEST = case((jobs.c.lost_at < _STEP, _STEP), else_=jobs.c.lost_at)
_WORKER_GONE = jobs.c.losses + case((jobs.c.lost_at >= _STEP, 1), else_=0)
# What a claim makes of them: a job that is claimed while it runs has lost its worker.
_LOSSES = case((jobs.c.status == _RUNNING, _WORKER_GONE), else_=jobs.c.losses)
_LOST_AT = case((jobs.c.status == _RUNNING, _FURTHEST), else_=jobs.c.lost_at)
_SUSPECT = _LOSSES >= SUSPECT_LOSSES


def waits(tx: Connection, *, base_model: str, now: float, alone: bool, max_losses: int) -> bool:
    """Whether `claim_job` would find one. Takes no lock."""
    first = _waiting(base_model, now, alone=alone).with_only_columns(
        jobs.c.id, _LOSSES.label("losses")
    )
    row = tx.execute(first).first()
    return row is not None and (alone or not SUSPECT_LOSSES <= row.losses < max_losses)


def suspects_wait(tx: Connection, *, base_model: str, now: float) -> bool:
    """Whether a suspect waits for a process of its own."""
    query = _waiting(base_model, now, alone=True).where(_SUSPECT)
    return tx.execute(query).first() is not None


def claim_job(  # noqa: PLR0913  who claims, and which
    tx: Connection,
    *,
    worker: str,
    base_model: str,
    now: float,
    lease_seconds: float,
    alone: bool,
    max_losses: int,
) -> Job | None:
    """Take the oldest job that waits, or whose worker has gone silent, and become its next attempt.

    `alone` says that nothing is in the process yet: suspects come first then. Otherwise a suspect that is first in the
    queue is not taken, and nobody overtakes it; only one that has used up its `max_losses` is, since it will not run.

    One statement. On PostgreSQL concurrent claimers skip each other's rows; SQLite has one writer at a time.
    """
    candidate = (
        _waiting(base_model, now, alone=alone).with_for_update(skip_locked=True).scalar_subquery()
    )
    fits = [] if alone else [or_(~_SUSPECT, max_losses <= _LOSSES)]
    row = tx.execute(
        update(jobs)
        .where(jobs.c.id == candidate, *fits)
        .values(
            status=_RUNNING,
            phase=Phase.PREPARING.value,
            attempt=jobs.c.attempt + 1,
            losses=_LOSSES,
            lost_at=_LOST_AT,
            worker=worker,
            lease_expires_at=now + lease_seconds,
            started_at=func.coalesce(jobs.c.started_at, now),
        )
        .returning(jobs)
    ).first()
    return to_job(row) if row is not None else None


def requeue_job(
    tx: Connection, job: Job, *, lost: bool, not_before: float, reason: str, now: float
) -> None:
    """Give a running job back to the queue; it keeps its place and continues from its last checkpoint.

    Raises:
        LeaseLost: the job was cancelled, or belongs to a later attempt.
    """
    losses = {"losses": jobs.c.losses + 1, "lost_at": _FURTHEST} if lost else {}
    _requeue(tx, job, losses, not_before=not_before, reason=reason, now=now)


def take_back_jobs(tx: Connection, worker: str, *, reason: str, now: float) -> int:
    """Requeue what a worker of that name held when it was killed."""
    query = select(jobs).where(jobs.c.worker == worker, jobs.c.status == _RUNNING)
    left = [to_job(row) for row in tx.execute(query)]
    losses = {"losses": _WORKER_GONE, "lost_at": _FURTHEST}
    for job in left:
        _requeue(tx, job, losses, not_before=now, reason=reason, now=now)
    return len(left)


def measure_loads(tx: Connection) -> list[QueueLoad]:
    """What there is to do, for each base model that has something to do."""
    running = jobs.c.status == _RUNNING
    query = (
        select(
            jobs.c.base_model,
            func.sum(case((running, 0), else_=1)).label("queued"),
            func.sum(case((running, 1), else_=0)).label("running"),
            func.min(case((running, jobs.c.progress["eta_seconds"].as_float()))).label("end"),
        )
        .where(jobs.c.status.in_([_QUEUED, _RUNNING]))
        .group_by(jobs.c.base_model)
    )
    return [
        QueueLoad(
            base_model=row.base_model, queued=row.queued, running=row.running, soonest_end=row.end
        )
        for row in tx.execute(query)
    ]


def require_room(tx: Connection, most_waiting: int) -> None:
    """Look whether one more job may wait.

    Raises:
        QueueFull: that many wait already; with the seconds until one of them is likely to start.
    """
    count = select(func.count()).select_from(jobs).where(jobs.c.status == _QUEUED)
    waiting: int = tx.execute(count).scalar_one()
    if waiting < most_waiting:
        return
    # A place is free when a waiting job starts, and one starts when a running one ends.
    ends = [load.soonest_end for load in measure_loads(tx) if load.soonest_end is not None]
    seconds = min(_LONGEST_WAIT_S, max(1.0, min(ends))) if ends else _UNKNOWN_WAIT_S
    when = f"in about {seconds:.0f} s" if ends else "at a time that nobody can tell yet"
    raise QueueFull(
        f"{waiting} jobs wait already, and at most {most_waiting} may. A place is expected {when}; "
        f"ask again in {seconds:.0f} s.",
        retry_after=seconds,
    )


def _waiting(base_model: str, now: float, *, alone: bool) -> Select[Any]:
    waiting = and_(jobs.c.status == _QUEUED, jobs.c.not_before <= now)
    abandoned = and_(jobs.c.status == _RUNNING, jobs.c.lease_expires_at < now)
    suspects_first = [case((_SUSPECT, 0), else_=1)] if alone else []
    return (
        select(jobs.c.id)
        .where(jobs.c.base_model == base_model, or_(waiting, abandoned))
        .order_by(*suspects_first, jobs.c.created_at, jobs.c.id)
        .limit(1)
    )


def _requeue(
    tx: Connection,
    job: Job,
    losses: dict[str, Any],
    *,
    not_before: float,
    reason: str,
    now: float,
) -> None:
    write_as(
        tx,
        job.id,
        job.attempt,
        status=_QUEUED,
        phase=Phase.QUEUED.value,
        worker=None,
        lease_expires_at=None,
        not_before=not_before,
        **losses,
    )
    event = NewEvent(
        kind=EventKind.MESSAGE, level="warn", message=reason, data={"kind": "job_requeued"}
    )
    append_events(tx, job.id, [event], now)
    notify(tx, Topic.QUEUED)
