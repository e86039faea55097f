"""Statements about the queue: which job comes next, and what a job that is given back has lost.

Whose turn it is, `adapters/turns.py` says; here the jobs are read that it is asked about.

A job is lost when its training process dies, or when its worker does. Both count, in a row, until the job gets further:
until a checkpoint beyond the step at which it was lost (`jobs.take_note`). A process that dies says something about the
jobs in it; a worker that is gone, hardly: it counts only for a job that has not got further since it was last lost.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any

from sqlalchemy import (
    BindParameter,
    Connection,
    Double,
    Select,
    and_,
    bindparam,
    case,
    func,
    or_,
    select,
    update,
)

from adapters.db import use
from adapters.db.events import append_events
from adapters.db.jobs import write_as
from adapters.db.notices import Topic, notify
from adapters.db.rows import to_job
from adapters.db.schema import jobs
from adapters.demand import QueueLoad
from adapters.records import (
    SUSPECT_LOSSES,
    EventKind,
    Job,
    JobStatus,
    NewEvent,
    Phase,
    Priority,
)
from adapters.settings import QueueSettings
from adapters.turns import Waiting, in_turn

_QUEUED, _RUNNING = JobStatus.QUEUED.value, JobStatus.RUNNING.value
#: So many of a lane are looked at: those that others are taking up at this moment are passed over.
_DEEP = 8
_STEP = jobs.c.progress["step"].as_integer()
_FURTHEST = case((jobs.c.lost_at < _STEP, _STEP), else_=jobs.c.lost_at)
_WORKER_GONE = jobs.c.losses + case((jobs.c.lost_at >= _STEP, 1), else_=0)
# What a claim makes of them: a job that is claimed while it runs has lost its worker.
_LOSSES = case((jobs.c.status == _RUNNING, _WORKER_GONE), else_=jobs.c.losses)
_LOST_AT = case((jobs.c.status == _RUNNING, _FURTHEST), else_=jobs.c.lost_at)
_SUSPECT = _LOSSES >= SUSPECT_LOSSES
_ABOUT = (jobs.c.id, jobs.c.tenant, jobs.c.priority, jobs.c.created_at, _LOSSES.label("losses"))


def waits(
    tx: Connection,
    *,
    base_model: str,
    now: float,
    alone: bool,
    max_losses: int,
    rules: QueueSettings,
) -> bool:
    """Whether `claim_job` would find one. Takes no lock, and only where a suspect waits more than one look."""
    open_now = select(jobs.c.id).where(jobs.c.base_model == base_model, _open(now)).limit(1)
    if tx.execute(open_now).first() is None:
        return False
    if alone or not suspects_wait(tx, base_model=base_model, now=now):
        return True
    firsts = _takeable(tx, base_model, now, deep=1)
    first = _in_turn(tx, base_model, firsts, now, rules)[0]
    return not SUSPECT_LOSSES <= first.losses < max_losses


def suspects_wait(tx: Connection, *, base_model: str, now: float) -> bool:
    """Whether a suspect waits for a process of its own."""
    query = select(jobs.c.id).where(jobs.c.base_model == base_model, _open(now), _SUSPECT)
    return tx.execute(query.limit(1)).first() is not None


def claim_job(  # noqa: PLR0913  who claims, and which
    tx: Connection,
    *,
    worker: str,
    base_model: str,
    now: float,
    lease_seconds: float,
    alone: bool,
    max_losses: int,
    rules: QueueSettings,
) -> Job | None:
    """Take the job whose turn it is, of those that wait or whose worker has gone silent, and become its next attempt.

    `alone` says that nothing is in the process yet: suspects come first then. Otherwise a suspect that is first in the
    queue is not taken, and nobody overtakes it; only one that has used up its `max_losses` is, since it will not run.

    On PostgreSQL concurrent claimers pass over each other's rows; SQLite has one writer at a time.
    """
    open_now = _takeable(tx, base_model, now, alone=alone, deep=_DEEP)
    for one in _in_turn(tx, base_model, open_now, now, rules):
        if not alone and SUSPECT_LOSSES <= one.losses < max_losses:
            return None
        mine = select(jobs.c.id).where(jobs.c.id == one.id, _open(now))
        row = tx.execute(
            update(jobs)
            .where(jobs.c.id == mine.with_for_update(skip_locked=True).scalar_subquery())
            .values(
                status=_RUNNING,
                phase=Phase.PREPARING.value,
                attempt=jobs.c.attempt + 1,
                losses=_LOSSES,
                lost_at=_LOST_AT,
                worker=worker,
                lease_expires_at=now + lease_seconds,
                started_at=func.coalesce(jobs.c.started_at, now),
                charged_at=now,
            )
            .returning(jobs)
        ).first()
        if row is not None:
            return to_job(row)
    return None


def order(
    tx: Connection,
    base_model: str,
    now: float,
    rules: QueueSettings,
    *,
    more: Waiting | None = None,
) -> list[Waiting]:
    """All that wait, in the order in which they would be taken up; last those whose retry is not due yet.

    `more` is one that does not wait, and is put where it would stand.
    """
    there = _takeable(tx, base_model, now)
    ready = _in_turn(tx, base_model, [*there, more] if more else there, now, rules)
    query = (
        select(*_ABOUT)
        .where(jobs.c.base_model == base_model, jobs.c.status == _QUEUED, jobs.c.not_before > now)
        .order_by(jobs.c.not_before, jobs.c.id)
    )
    return [*ready, *map(_waiting, tx.execute(query))]


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
    # Held: somebody else may be taking up one whose lease has run out, or it is being cancelled.
    left = [to_job(row) for row in tx.execute(query.order_by(jobs.c.id).with_for_update())]
    losses = {"losses": _WORKER_GONE, "lost_at": _FURTHEST}
    for job in left:
        _requeue(tx, job, losses, not_before=now, reason=reason, now=now)
    return len(left)


def measure_loads(tx: Connection, now: float) -> list[QueueLoad]:
    """What there is to do and who is there to do it, for each base model that has either."""
    running = jobs.c.status == _RUNNING
    query = (
        select(
            jobs.c.base_model,
            func.sum(case((running, 0), else_=1)).label("queued"),
            func.sum(case((running, 1), else_=0)).label("running"),
            func.min(case((running, jobs.c.progress["eta_seconds"].as_float()))).label("end"),
            func.min(case((running, None), else_=jobs.c.created_at)).label("oldest"),
        )
        .where(jobs.c.status.in_([_QUEUED, _RUNNING]))
        .group_by(jobs.c.base_model)
    )
    slots = use.count_slots(tx, now)
    busy = {row.base_model: row for row in tx.execute(query)}
    return [
        QueueLoad(
            base_model=base_model,
            queued=row.queued if row else 0,
            running=row.running if row else 0,
            soonest_end=row.end if row else None,
            oldest=row.oldest if row else None,
            slots=slots.get(base_model),
        )
        for base_model in sorted(busy | slots)
        for row in [busy.get(base_model)]
    ]


def _open(now: float | BindParameter[float]) -> Any:
    """Whether a job may be taken up: it waits, or its worker has gone silent."""
    waiting = and_(jobs.c.status == _QUEUED, jobs.c.not_before <= now)
    abandoned = and_(jobs.c.status == _RUNNING, jobs.c.lease_expires_at < now)
    return or_(waiting, abandoned)


def _takeable(
    tx: Connection,
    base_model: str,
    now: float,
    *,
    alone: bool = False,
    deep: int | None = None,
) -> list[Waiting]:
    """What may be taken up: all, or the first few of each lane. Suspects only, where one waits for an empty process."""
    query = _candidates(alone=alone, all_of_lanes=deep is None)
    asked = {"base_model": base_model, "now": now} | ({} if deep is None else {"deep": deep})
    waiting = list(map(_waiting, tx.execute(query, asked)))
    suspects = [one for one in waiting if one.suspect] if alone else []
    return suspects or waiting


@cache
def _candidates(*, alone: bool, all_of_lanes: bool) -> Select[Any]:
    """Asks for `base_model`, `now` and, unless for all of the lanes, `deep`.

    Made once: a query and its subquery hold each other, so that only the garbage collector gets rid of them.
    """
    suspects_first = [case((_SUSPECT, 0), else_=1)] if alone else []
    place = func.row_number().over(
        partition_by=(jobs.c.tenant, jobs.c.priority),
        order_by=(*suspects_first, jobs.c.created_at, jobs.c.id),
    )
    found: Select[Any] = select(*_ABOUT, place.label("place")).where(
        jobs.c.base_model == bindparam("base_model"), _open(bindparam("now", type_=Double))
    )
    if all_of_lanes:
        return found
    lanes = found.subquery()
    return select(lanes).where(lanes.c.place <= bindparam("deep"))


def _in_turn(
    tx: Connection, base_model: str, waiting: Sequence[Waiting], now: float, rules: QueueSettings
) -> list[Waiting]:
    # When one of a lane was taken up last matters only where its first has waited for long.
    old = {
        (one.tenant, one.priority) for one in waiting if now - one.created_at >= rules.age_seconds
    }
    standing = use.standing(
        tx, base_model=base_model, lanes=old, now=now, half_life=rules.half_life_seconds
    )
    return list(in_turn(waiting, standing, rules))


def _waiting(row: Any) -> Waiting:
    return Waiting(
        id=row.id,
        tenant=row.tenant,
        priority=Priority(row.priority),
        created_at=row.created_at,
        losses=row.losses,
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
