"""Statements about the log of a job: append-only, numbered from 1 without gaps."""

from collections.abc import Sequence

from sqlalchemy import Connection, insert, select, update

from adapters.db.notices import Topic, notify
from adapters.db.rows import to_event
from adapters.db.schema import job_events, jobs
from adapters.db.tenancy import of_my_jobs
from adapters.records import Event, EventKind, NewEvent


def append_events(tx: Connection, job_id: str, events: Sequence[NewEvent], now: float) -> None:
    """Number and store events. The update also locks the job's row, so that numbers come in commit order."""
    if not events:
        return
    if any(event.kind is EventKind.STATUS for event in events):
        notify(tx, Topic.LOGGED)
    last = tx.execute(
        update(jobs)
        .where(jobs.c.id == job_id)
        .values(last_event=jobs.c.last_event + len(events))
        .returning(jobs.c.last_event)
    ).scalar_one()
    first = last - len(events) + 1
    tx.execute(
        insert(job_events),
        [
            {
                "job_id": job_id,
                "seq": first + offset,
                "kind": event.kind.value,
                "level": event.level,
                "message": event.message,
                "data": event.data,
                "created_at": now,
            }
            for offset, event in enumerate(events)
        ],
    )


def list_latest(tx: Connection, job_id: str, *, before: int | None, limit: int) -> list[Event]:
    """Newest first, those with a seq below `before`."""
    query = select(job_events).where(
        job_events.c.job_id == job_id, of_my_jobs(tx, job_events.c.job_id)
    )
    if before is not None:
        query = query.where(job_events.c.seq < before)
    rows = tx.execute(query.order_by(job_events.c.seq.desc()).limit(limit))
    return [to_event(row) for row in rows]


def list_events(tx: Connection, job_id: str, *, after: int, limit: int) -> list[Event]:
    """Oldest first, those with a seq above `after`."""
    rows = tx.execute(
        select(job_events)
        .where(
            job_events.c.job_id == job_id,
            job_events.c.seq > after,
            of_my_jobs(tx, job_events.c.job_id),
        )
        .order_by(job_events.c.seq)
        .limit(limit)
    )
    return [to_event(row) for row in rows]
