"""Statements about the outbox: what is to be told is written in the transaction in which it happens, and sent later.

A delivery is taken up for as long as a lease lasts. Whoever takes it up next, because the first one has died, raises
`claims`, and what the first one still has to say of it changes nothing.
"""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import (
    BindParameter,
    Connection,
    Float,
    Select,
    and_,
    bindparam,
    case,
    delete,
    exists,
    func,
    insert,
    or_,
    select,
    update,
)

from adapters.db.endpoints import get_endpoint, listeners
from adapters.db.notices import Topic, notify
from adapters.db.rows import dump_news, to_delivery
from adapters.db.schema import webhook_deliveries, webhook_endpoints
from adapters.errors import DeliveryNotFound
from adapters.names import new_id
from adapters.records import Job
from adapters.webhooks import Delivery, DeliveryStatus, Errand, Happening, JobNews

_PENDING = DeliveryStatus.PENDING.value


def announce(
    tx: Connection, job: Job, happening: Happening, now: float, *, step: int | None = None
) -> None:
    """Put it in the outbox for everybody who wants to know, under one event id for all."""
    told = [one for one in listeners(tx, job) if happening in one.event_types]
    if not told:
        return
    event_id, news = new_id("evt_"), dump_news(_news(job, step))
    tx.execute(
        insert(webhook_deliveries),
        [
            {
                "id": new_id("whd_"),
                "endpoint_id": endpoint.id,
                "event_id": event_id,
                "event_type": happening.value,
                "news": news,
                "created_at": now,
                "status": _PENDING,
                "due_at": now,
            }
            for endpoint in told
        ],
    )
    notify(tx, Topic.ANNOUNCED)


def waits(tx: Connection, now: float) -> bool:
    """Whether `claim` would find a delivery. Takes no lock."""
    return tx.execute(_SOME_DUE, {"now": now}).first() is not None


def is_empty(tx: Connection) -> bool:
    """Whether there is nothing to send, now or later."""
    return tx.execute(_SOME_PENDING).first() is None


def claim(tx: Connection, *, now: float, lease_seconds: float) -> Errand | None:
    """Take up the delivery that has been due for longest, of endpoints that answer before those that do not.

    One at a time for each endpoint, so that neither a slow one nor a silent one holds up the others. On PostgreSQL two
    claimers in the same moment may both serve one endpoint; they never get the same delivery.
    """
    candidate = _due(now, lock=True).scalar_subquery()
    row = tx.execute(
        update(webhook_deliveries)
        .where(webhook_deliveries.c.id == candidate)
        .values(claims=webhook_deliveries.c.claims + 1, lease_expires_at=now + lease_seconds)
        .returning(webhook_deliveries)
    ).first()
    if row is None:
        return None
    delivery = to_delivery(row)
    return Errand(delivery=delivery, endpoint=get_endpoint(tx, delivery.endpoint_id))


def settle(tx: Connection, delivery: Delivery, **values: Any) -> bool:
    """Write how an attempt went and give the delivery back; False where it belongs to somebody else by now."""
    row = tx.execute(
        update(webhook_deliveries)
        .where(
            webhook_deliveries.c.id == delivery.id,
            webhook_deliveries.c.claims == delivery.claims,
        )
        .values(lease_expires_at=None, **values)
        .returning(webhook_deliveries.c.id)
    ).first()
    return row is not None


def get_delivery(tx: Connection, endpoint_id: str, delivery_id: str) -> Delivery:
    """Look a delivery up.

    Raises:
        DeliveryNotFound: the endpoint has none of that id.
    """
    row = tx.execute(
        select(webhook_deliveries).where(
            webhook_deliveries.c.id == delivery_id,
            webhook_deliveries.c.endpoint_id == endpoint_id,
        )
    ).first()
    if row is None:
        raise DeliveryNotFound(
            f"The endpoint {endpoint_id} has no delivery '{delivery_id}'.", param="delivery"
        )
    return to_delivery(row)


def list_deliveries(
    tx: Connection, endpoint_id: str, *, after: str | None, limit: int
) -> list[Delivery]:
    """Newest first; `after` is the id of the last one of the page before."""
    columns = webhook_deliveries.c
    query = (
        select(webhook_deliveries)
        .where(columns.endpoint_id == endpoint_id)
        .order_by(columns.created_at.desc(), columns.id.desc())
        .limit(limit)
    )
    if after is not None:
        last = get_delivery(tx, endpoint_id, after)
        told_at = last.announcement.created_at
        query = query.where(
            or_(
                columns.created_at < told_at,
                and_(columns.created_at == told_at, columns.id < after),
            )
        )
    return [to_delivery(row) for row in tx.execute(query)]


def retry(tx: Connection, delivery: Delivery, now: float) -> None:
    """Make a delivery due now; one that had ended begins its schedule anew. One that is being sent stays as it is."""
    attempts = delivery.attempts if delivery.status is DeliveryStatus.PENDING else 0
    columns = webhook_deliveries.c
    tx.execute(
        update(webhook_deliveries)
        .where(
            columns.id == delivery.id,
            or_(columns.lease_expires_at.is_(None), columns.lease_expires_at <= now),
        )
        .values(status=_PENDING, due_at=now, attempts=attempts)
    )
    notify(tx, Topic.ANNOUNCED)


def ended_deliveries(tx: Connection, *, before: float, limit: int) -> list[str]:
    """The ids of those that ended before that time, so many at most."""
    columns = webhook_deliveries.c
    # What ended without an attempt, because its endpoint was disabled, has no other time than that of its event.
    ended_at = func.coalesce(columns.last_attempt_at, columns.created_at)
    old = (
        select(columns.id)
        .where(columns.status != _PENDING, columns.created_at < before, ended_at < before)
        .limit(limit)
    )
    return list(tx.execute(old).scalars())


def forget_deliveries(tx: Connection, ids: Sequence[str]) -> None:
    """Strike them from the log, but for those that somebody has made due again."""
    columns = webhook_deliveries.c
    tx.execute(delete(webhook_deliveries).where(columns.id.in_(ids), columns.status != _PENDING))


def _due(now: float | BindParameter[float], *, lock: bool = False) -> Select[Any]:
    due, other = webhook_deliveries.alias("due"), webhook_deliveries.alias("other")
    endpoint = webhook_endpoints.c
    # A delivery with a running lease is its own `busy`.
    busy = exists().where(
        other.c.endpoint_id == due.c.endpoint_id,
        other.c.status == _PENDING,
        other.c.lease_expires_at > now,
    )
    query = (
        select(due.c.id)
        .join(webhook_endpoints, endpoint.id == due.c.endpoint_id)
        .where(
            due.c.status == _PENDING,
            due.c.due_at <= now,
            endpoint.disabled_at.is_(None),
            endpoint.deleted_at.is_(None),
            ~busy,
        )
        .order_by(case((endpoint.failing_since.is_(None), 0), else_=1), due.c.due_at, due.c.id)
        .limit(1)
    )
    return query.with_for_update(skip_locked=True, of=due) if lock else query


#: Built once: they are asked for ever, and building them takes longer than the answer.
_SOME_DUE = _due(bindparam("now", type_=Float))
_SOME_PENDING = (
    select(webhook_deliveries.c.id).where(webhook_deliveries.c.status == _PENDING).limit(1)
)


def _news(job: Job, step: int | None) -> JobNews:
    error = job.error
    return JobNews(
        job_id=job.id,
        status=job.status.value,
        adapter=job.adapter,
        base_model=job.base_model,
        fine_tuned_model=job.fine_tuned_model,
        error={"code": error.code, "message": error.message, "param": error.param}
        if error
        else None,
        step=step,
    )
