"""Statements about the devices: what tenants have used of them, and who trains on them.

A job is charged for the time since it was charged last, divided by the number of jobs in its process. That happens with
every heartbeat, when a job joins it, and when it leaves. What a job has used since the last heartbeat of a worker that
died is given to it.

Charging comes first in its transaction, before any row of `jobs` is written, so that no two wait for each other.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence

from sqlalchemy import ColumnElement, Connection, delete, func, select, update
from sqlalchemy.dialects import postgresql, sqlite

from adapters.db.schema import device_use, jobs, workers
from adapters.records import JobStatus, Priority
from adapters.turns import Lane, Standing

_RUNNING = JobStatus.RUNNING.value
# Made once: a table's alias copies all of its columns, and they and it hold each other, so that only the garbage
# collector gets rid of them. Every heartbeat charges.
_OTHERS = jobs.alias()
_COMPANY = (
    select(func.count())
    .select_from(_OTHERS)
    .where(_OTHERS.c.status == _RUNNING, _OTHERS.c.worker == jobs.c.worker)
    .scalar_subquery()
    .label("company")
)


def charge_worker(tx: Connection, worker: str, *, now: float, half_life: float) -> None:
    """Put down what the jobs of a worker have used since it was put down last."""
    _charge(tx, jobs.c.worker == worker, now, half_life)


def charge_jobs(tx: Connection, ids: Sequence[str], *, now: float, half_life: float) -> None:
    """Put down what those of the jobs that run have used since it was put down last."""
    _charge(tx, jobs.c.id.in_(ids), now, half_life)


def _charge(tx: Connection, which: ColumnElement[bool], now: float, half_life: float) -> None:
    query = select(jobs.c.id, jobs.c.tenant, jobs.c.charged_at, _COMPANY).where(
        which, jobs.c.status == _RUNNING, jobs.c.worker.is_not(None), jobs.c.charged_at < now
    )
    due = tx.execute(query).all()
    if not due:
        return
    seconds: dict[str, float] = defaultdict(float)
    for row in due:
        seconds[row.tenant] += (now - row.charged_at) / row.company
    for tenant in sorted(seconds):  # all in one order, so that nobody waits for each other
        _add(tx, tenant, seconds[tenant], now, half_life)
    tx.execute(
        update(jobs)
        .where(jobs.c.id.in_([row.id for row in due]))
        .values(charged_at=now, ran_seconds=jobs.c.ran_seconds + (now - jobs.c.charged_at))
    )


def standing(
    tx: Connection, *, base_model: str, lanes: Iterable[Lane], now: float, half_life: float
) -> Standing:
    """How tenants stand. `lanes` are those of which it matters when one of them was taken up last."""
    used = {
        row.tenant: _left(row.seconds, now - row.as_of, half_life)
        for row in tx.execute(select(device_use))
    }
    running = tx.execute(
        select(jobs.c.tenant, func.count()).where(jobs.c.status == _RUNNING).group_by(jobs.c.tenant)
    )
    served = {lane: _served_at(tx, base_model, *lane) for lane in lanes}
    return Standing(
        now=now,
        used=used,
        running={row[0]: row[1] for row in running},
        served_at={lane: at for lane, at in served.items() if at is not None},
    )


def attend(
    tx: Connection, worker: str, *, base_model: str, slots: int, until: float, now: float
) -> None:
    """Record that a worker trains up to so many jobs of a base model at a time, and is there until then."""
    values = {"base_model": base_model, "slots": slots, "expires_at": until}
    insert = sqlite.insert if tx.dialect.name == "sqlite" else postgresql.insert
    tx.execute(
        insert(workers)
        .values(id=worker, **values)
        .on_conflict_do_update(index_elements=[workers.c.id], set_=values)
    )
    # Whoever is just saying that it is still there holds its row, and waits for ours in turn: so it is passed over.
    gone = select(workers.c.id).where(workers.c.expires_at < now).with_for_update(skip_locked=True)
    tx.execute(delete(workers).where(workers.c.id.in_(gone)))


def leave(tx: Connection, worker: str) -> None:
    """Record that a worker trains nothing any more."""
    tx.execute(delete(workers).where(workers.c.id == worker))


def count_slots(tx: Connection, now: float) -> dict[str, int]:
    """How many jobs can be trained at a time, by base model, where a worker is there."""
    query = (
        select(workers.c.base_model, func.sum(workers.c.slots))
        .where(workers.c.expires_at >= now)
        .group_by(workers.c.base_model)
    )
    return {row[0]: int(row[1]) for row in tx.execute(query)}


def _served_at(tx: Connection, base_model: str, tenant: str, priority: Priority) -> float | None:
    last = select(func.max(jobs.c.started_at)).where(
        jobs.c.base_model == base_model,
        jobs.c.tenant == tenant,
        jobs.c.priority == priority.value,
    )
    found: float | None = tx.execute(last).scalar()
    return found


def _add(tx: Connection, tenant: str, seconds: float, now: float, half_life: float) -> None:
    insert = sqlite.insert if tx.dialect.name == "sqlite" else postgresql.insert
    tx.execute(
        insert(device_use)
        .values(tenant=tenant, seconds=0.0, as_of=now)
        .on_conflict_do_nothing(index_elements=[device_use.c.tenant])
    )
    mine = device_use.c.tenant == tenant
    row = tx.execute(select(device_use).where(mine).with_for_update()).one()
    left = _left(row.seconds, now - row.as_of, half_life)
    tx.execute(update(device_use).where(mine).values(seconds=left + seconds, as_of=now))


def _left(seconds: float, age: float, half_life: float) -> float:
    return seconds * math.pow(0.5, max(0.0, age) / half_life)
