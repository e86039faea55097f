"""Statements about tenants and their API keys. These are the operator's: a transaction of one tenant sees its own."""

from typing import Any

from sqlalchemy import Connection, Row, and_, insert, or_, select, update

from adapters.db.schema import api_keys, tenants
from adapters.db.tenancy import mine
from adapters.errors import KeyNotFound
from adapters.keys import Key, Scope


def add_tenant(tx: Connection, tenant: str, now: float) -> None:
    """Record a tenant, unless it is known."""
    known = select(tenants.c.id).where(tenants.c.id == tenant)
    if tx.execute(known).first() is None:
        tx.execute(insert(tenants).values(id=tenant, created_at=now))


def add_key(tx: Connection, key: Key) -> None:
    """Record a key."""
    tx.execute(
        insert(api_keys).values(
            id=key.id,
            tenant=key.tenant,
            name=key.name,
            digest=key.digest,
            hint=key.hint,
            scopes=[scope.value for scope in key.scopes],
            created_at=key.created_at,
            expires_at=key.expires_at,
        )
    )


def find_key(tx: Connection, digest: str) -> Key | None:
    """The key of that digest, good or not."""
    row = tx.execute(select(api_keys).where(api_keys.c.digest == digest)).first()
    return _to_key(row) if row is not None else None


def get_key(tx: Connection, key_id: str) -> Key:
    """Look a key up.

    Raises:
        KeyNotFound: there is none of that id.
    """
    row = tx.execute(select(api_keys).where(api_keys.c.id == key_id, mine(tx, api_keys))).first()
    if row is None:
        raise KeyNotFound(f"No API key has the id '{key_id}'.", param="id")
    return _to_key(row)


def list_keys(tx: Connection, *, tenant: str | None, after: str | None, limit: int) -> list[Key]:
    """Newest first, of one tenant or of all; `after` is the id of the last one of the page before.

    Raises:
        KeyNotFound: `after` is no key.
    """
    columns = api_keys.c
    query = select(api_keys).where(mine(tx, api_keys))
    query = query.order_by(columns.created_at.desc(), columns.id.desc()).limit(limit)
    if tenant is not None:
        query = query.where(columns.tenant == tenant)
    if after is not None:
        last = get_key(tx, after)
        query = query.where(
            or_(
                columns.created_at < last.created_at,
                and_(columns.created_at == last.created_at, columns.id < last.id),
            )
        )
    return [_to_key(row) for row in tx.execute(query)]


def revoke_key(tx: Connection, key_id: str, now: float) -> Key:
    """Make a key good for nothing from now on; one that is revoked already stays as it is.

    Raises:
        KeyNotFound: there is none of that id.
    """
    key = get_key(tx, key_id)
    if key.revoked_at is None:
        tx.execute(update(api_keys).where(api_keys.c.id == key_id).values(revoked_at=now))
    return get_key(tx, key_id)


def note_use(tx: Connection, key_id: str, now: float) -> None:
    """Write down that a key is used."""
    tx.execute(update(api_keys).where(api_keys.c.id == key_id).values(last_used_at=now))


def _to_key(row: Row[Any]) -> Key:
    values = dict(row._mapping)  # noqa: SLF001  SQLAlchemy spells its public Row API with an underscore
    return Key(**values | {"scopes": tuple(Scope(scope) for scope in values["scopes"])})
