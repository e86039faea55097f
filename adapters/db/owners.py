"""Statements about whose a name is.

A name belongs to one tenant, since engines load adapters by it. It is claimed when a job is taken in, and not when its
version is published: two tenants must not train for hours towards the same name. A claim is a row of `adapters` that
looks deleted until something is published under it. It holds while its tenant has the adapter, or a job on its way.
"""

from sqlalchemy import Connection, insert, select, update

from adapters.db.schema import adapters, jobs
from adapters.errors import AdapterNameConflict
from adapters.records import JobStatus

_LIVE = [status.value for status in JobStatus if not status.terminal]


def claim_name(tx: Connection, name: str, base_model: str, tenant: str, now: float) -> None:
    """Make the name the tenant's. The row stays locked for the rest of the transaction.

    A tenant that claims a name which is free in the same moment as another one meets the primary key.

    Raises:
        AdapterNameConflict: it is another tenant's.
    """
    query = select(adapters.c.tenant, adapters.c.deleted_at).where(adapters.c.name == name)
    row = tx.execute(query.with_for_update()).first()
    if row is not None and row.tenant == tenant:
        return
    if (row is not None and row.deleted_at is None) or _wanted_by_others(tx, name, tenant):
        raise AdapterNameConflict(
            f"The adapter name '{name}' is taken. Choose another one.", param="name"
        )
    if row is None:
        tx.execute(
            insert(adapters).values(
                name=name,
                base_model=base_model,
                created_at=now,
                last_number=0,
                revision=0,
                deleted_at=now,
                tenant=tenant,
            )
        )
    else:
        tx.execute(update(adapters).where(adapters.c.name == name).values(tenant=tenant))


def _wanted_by_others(tx: Connection, name: str, tenant: str) -> bool:
    """Whether another tenant has a job on its way there."""
    query = select(jobs.c.id).where(
        jobs.c.adapter == name, jobs.c.tenant != tenant, jobs.c.status.in_(_LIVE)
    )
    return tx.execute(query.limit(1)).first() is not None
