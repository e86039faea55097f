"""Statements about what others than its owner may do with an adapter."""

from collections.abc import Sequence

from sqlalchemy import ColumnElement, Connection, delete, false, insert, select, update

from adapters.db.schema import adapter_shares as shares, adapters
from adapters.db.tenancy import tenant_of
from adapters.sharing import EVERYBODY, Share

# SQLite takes at most 32766 bound values.
_PAGE = 1000


def put_share(tx: Connection, adapter: str, share: Share) -> None:
    """Let a tenant, or everybody, do what the share says; it takes the place of an earlier one."""
    allowed = {"may_continue": share.may_continue, "may_download": share.may_download}
    known = update(shares).where(shares.c.adapter == adapter, shares.c.tenant == share.tenant)
    if tx.execute(known.values(**allowed).returning(shares.c.tenant)).first() is None:
        made = {"adapter": adapter, "tenant": share.tenant, "created_at": share.created_at}
        tx.execute(insert(shares).values(**made, **allowed))


def end_share(tx: Connection, adapter: str, tenant: str) -> bool:
    """Take back what a tenant, or everybody, may do; says whether there was something."""
    gone = delete(shares).where(shares.c.adapter == adapter, shares.c.tenant == tenant)
    return tx.execute(gone.returning(shares.c.tenant)).first() is not None


def forget_shares(tx: Connection, adapter: str) -> None:
    """Take everything back: the adapter is deleted, and its name may become another tenant's."""
    tx.execute(delete(shares).where(shares.c.adapter == adapter))


def shares_of(tx: Connection, names: Sequence[str]) -> dict[str, list[Share]]:
    """What is shared of each of these adapters, by whom it is for."""
    found: dict[str, list[Share]] = {}
    for start in range(0, len(names), _PAGE):
        query = (
            select(shares)
            .where(shares.c.adapter.in_(names[start : start + _PAGE]))
            .order_by(shares.c.adapter, shares.c.tenant)
        )
        for row in tx.execute(query):
            found.setdefault(row.adapter, []).append(
                Share(
                    tenant=row.tenant,
                    may_continue=row.may_continue,
                    may_download=row.may_download,
                    created_at=row.created_at,
                )
            )
    return found


def shared_with_me(tx: Connection) -> ColumnElement[bool]:
    """That an adapter is shared with whom the transaction is for."""
    tenant = tenant_of(tx)
    if tenant is None:
        return false()
    for_me = select(shares.c.adapter).where(shares.c.tenant.in_([tenant, EVERYBODY]))
    return adapters.c.name.in_(for_me)
