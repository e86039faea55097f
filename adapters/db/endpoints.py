"""Statements about webhook endpoints: those that hear of every job, and those that belong to one."""

from typing import Any

from sqlalchemy import Connection, and_, insert, or_, select, update

from adapters.db.rows import to_endpoint
from adapters.db.schema import webhook_deliveries, webhook_endpoints
from adapters.db.tenancy import mine, owner
from adapters.errors import EndpointNotFound
from adapters.records import Job
from adapters.webhooks import DeliveryStatus, Endpoint, NewEndpoint


def add_endpoint(
    tx: Connection,
    new: NewEndpoint,
    now: float,
    *,
    job_id: str | None = None,
    tenant: str | None = None,
) -> Endpoint:
    """Record an endpoint; with `job_id` one that hears of this job only, with `tenant` one of that tenant's."""
    row = tx.execute(
        insert(webhook_endpoints)
        .values(
            id=new.id,
            job_id=job_id,
            name=new.name,
            url=new.url,
            event_types=list(new.event_types),
            secret=new.secret,
            created_at=now,
            updated_at=now,
            tenant=tenant or owner(tx),
        )
        .returning(webhook_endpoints)
    ).one()
    return to_endpoint(row)


def get_endpoint(tx: Connection, endpoint_id: str) -> Endpoint:
    """Look an endpoint up.

    Raises:
        EndpointNotFound: there is none of that id, or it has been deleted.
    """
    row = tx.execute(
        select(webhook_endpoints).where(
            webhook_endpoints.c.id == endpoint_id,
            webhook_endpoints.c.deleted_at.is_(None),
            mine(tx, webhook_endpoints),
        )
    ).first()
    if row is None:
        raise EndpointNotFound(f"No webhook endpoint has the id '{endpoint_id}'.", param="id")
    return to_endpoint(row)


def hold_endpoint(tx: Connection, endpoint_id: str) -> None:
    """Lock an endpoint's row for the rest of the transaction.

    For those who write its deliveries first: whoever disables an endpoint locks the two in this order.
    """
    query = select(webhook_endpoints.c.id).where(webhook_endpoints.c.id == endpoint_id)
    tx.execute(query.with_for_update(key_share=True)).all()


def list_endpoints(tx: Connection, *, after: str | None, limit: int) -> list[Endpoint]:
    """Those that hear of every job, newest first; `after` is the id of the last one of the page before."""
    columns = webhook_endpoints.c
    query = (
        select(webhook_endpoints)
        .where(columns.job_id.is_(None), columns.deleted_at.is_(None), mine(tx, webhook_endpoints))
        .order_by(columns.created_at.desc(), columns.id.desc())
        .limit(limit)
    )
    if after is not None:
        last = get_endpoint(tx, after)
        query = query.where(
            or_(
                columns.created_at < last.created_at,
                and_(columns.created_at == last.created_at, columns.id < last.id),
            )
        )
    return [to_endpoint(row) for row in tx.execute(query)]


def listeners(tx: Connection, job: Job) -> list[Endpoint]:
    """Who is to be told of a job: every endpoint of its tenant that is not disabled, and the job's own."""
    columns = webhook_endpoints.c
    query = select(webhook_endpoints).where(
        columns.tenant == job.tenant,
        or_(columns.job_id.is_(None), columns.job_id == job.id),
        columns.deleted_at.is_(None),
        columns.disabled_at.is_(None),
    )
    return [to_endpoint(row) for row in tx.execute(query)]


def change_endpoint(tx: Connection, endpoint_id: str, **values: Any) -> None:
    """Write columns of an endpoint."""
    tx.execute(
        update(webhook_endpoints).where(webhook_endpoints.c.id == endpoint_id).values(**values)
    )


def enable_endpoint(tx: Connection, endpoint_id: str) -> None:
    """Tell an endpoint again, from the next happening on, as if it had never failed."""
    change_endpoint(tx, endpoint_id, disabled_at=None, disabled_reason=None, failing_since=None)


def disable_endpoint(tx: Connection, endpoint_id: str, reason: str, now: float) -> None:
    """Tell an endpoint no more; what was still to be told fails."""
    change_endpoint(tx, endpoint_id, disabled_at=now, disabled_reason=reason)
    _drop_pending(tx, endpoint_id, f"the endpoint was disabled: {reason}")


def delete_endpoint(tx: Connection, endpoint_id: str, now: float) -> Endpoint:
    """Forget an endpoint and its secrets; what was still to be told is not.

    Raises:
        EndpointNotFound: there is none of that id.
    """
    endpoint = get_endpoint(tx, endpoint_id)
    change_endpoint(
        tx, endpoint_id, deleted_at=now, secret="", old_secret=None, old_secret_until=None
    )
    _drop_pending(tx, endpoint_id, "the endpoint was deleted")
    return endpoint


def _drop_pending(tx: Connection, endpoint_id: str, reason: str) -> None:
    tx.execute(
        update(webhook_deliveries)
        .where(
            webhook_deliveries.c.endpoint_id == endpoint_id,
            webhook_deliveries.c.status == DeliveryStatus.PENDING.value,
        )
        .values(status=DeliveryStatus.FAILED.value, last_error=reason)
    )
