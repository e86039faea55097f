"""Whose rows a transaction may see and makes: those of the tenant that it was opened for, or everybody's.

The tenant travels with the transaction (`Database.of`), so that nothing above the statements can forget it. Routes work
in transactions of their caller; the trainer, the courier and the followers of the ledger in those of everybody.
"""

import hashlib
from typing import Any

from sqlalchemy import Column, ColumnElement, Connection, Table, select, true

from adapters.db.connect import TENANT
from adapters.db.schema import jobs
from adapters.records import DEFAULT_TENANT


def tenant_of(tx: Connection) -> str | None:
    """For whom the transaction is; None is everybody."""
    tenant: str | None = tx.get_execution_options().get(TENANT)
    return tenant


def owner(tx: Connection) -> str:
    """Whose the rows are that are made without saying whose."""
    return tenant_of(tx) or DEFAULT_TENANT


def mine(tx: Connection, table: Table) -> ColumnElement[bool]:
    """That a row may be seen, and changed."""
    tenant = tenant_of(tx)
    return true() if tenant is None else table.c.tenant == tenant


def of_my_jobs(tx: Connection, job_id: Column[Any]) -> ColumnElement[bool]:
    """The same of rows that belong to a job."""
    tenant = tenant_of(tx)
    if tenant is None:
        return true()
    return job_id.in_(select(jobs.c.id).where(jobs.c.tenant == tenant))


def keyed(tx: Connection, text: str) -> str:
    """A client's key or a request's digest, as one tenant's. The default tenant's are as they were when it was alone.

    No two tenants' meet: a digest is 64 hexadecimal characters, a client's key begins with what it is for and a colon,
    and a request's digest is what nobody can choose.
    """
    tenant = owner(tx)
    if tenant == DEFAULT_TENANT:
        return text
    return hashlib.sha256(f"{tenant}/{text}".encode()).hexdigest()
