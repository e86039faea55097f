"""Statements about how many bytes are kept for a tenant.

Counted anew each time rather than kept up to date: what expires takes no room from that moment on, and no sum can go
wrong. Versions and checkpoints are counted by digest, as the artifact store keeps them. What is deleted counts no
longer, although its files are purged some minutes later.
"""

from collections.abc import Collection
from typing import Any

from sqlalchemy import Connection, Select, case, delete, func, select
from sqlalchemy.dialects import postgresql, sqlite

from adapters.db.files import kept_at
from adapters.db.locks import take_turn_of
from adapters.db.schema import (
    adapters,
    checkpoints,
    files,
    jobs,
    upload_parts,
    uploads,
    versions,
    weights_sizes as sizes,
)
from adapters.db.tenancy import owner
from adapters.errors import OverQuota
from adapters.files import UploadStatus
from adapters.quotas import Stored


def measure(tx: Connection, now: float) -> Stored:
    """What is kept for whom the transaction is for."""
    tenant = owner(tx)
    of_versions = (
        select(versions.c.digest)
        .join(adapters, adapters.c.name == versions.c.adapter)
        .where(adapters.c.tenant == tenant, versions.c.deleted_at.is_(None))
    )
    of_checkpoints = (
        select(checkpoints.c.digest)
        .join(jobs, jobs.c.id == checkpoints.c.job_id)
        .where(jobs.c.tenant == tenant, checkpoints.c.deleted_at.is_(None))
        .where(checkpoints.c.digest.not_in(of_versions))
    )
    of_files = select(func.sum(files.c.bytes)).where(files.c.tenant == tenant, kept_at(now))
    return Stored(
        files=_total(tx, of_files),
        uploads=_total(tx, _announced(tenant, now)),
        versions=_total(tx, select(func.sum(sizes.c.bytes)).where(sizes.c.digest.in_(of_versions))),
        checkpoints=_total(
            tx, select(func.sum(sizes.c.bytes)).where(sizes.c.digest.in_(of_checkpoints))
        ),
    )


def require_room(tx: Connection, limit: int | None, now: float, *, more: int) -> None:
    """Look whether a tenant may keep so many bytes more, where there is a limit.

    In a transaction that goes on to record them nobody else of the tenant gets past here until it has ended: two that
    each had room must not take it together. Before anything is written in it, or two would wait for each other.

    Raises:
        OverQuota: it may not.
    """
    if limit is None:
        return
    take_turn_of(tx, owner(tx))
    refuse_beyond(measure(tx, now), limit, more=more)


def refuse_beyond(stored: Stored, limit: int, *, more: int) -> None:
    """Raise OverQuota where so many bytes more would be too many."""
    if stored.total + more <= limit:
        return
    raise OverQuota(
        f"You keep {stored.total:,} of the {limit:,} bytes that you may keep here, and this would be {more:,} more. "
        "Delete files, adapters or versions that you need no longer; GET /v1/usage says what takes how much."
    )


def note_size(tx: Connection, digest: str, size: int) -> None:
    """Write down how much a directory of the artifact store holds."""
    make = sqlite.insert if tx.dialect.name == "sqlite" else postgresql.insert
    tx.execute(
        make(sizes)
        .values(digest=digest, bytes=size)
        .on_conflict_do_nothing(index_elements=[sizes.c.digest])
    )


def forget_size(tx: Connection, digest: str) -> None:
    """A directory goes."""
    tx.execute(delete(sizes).where(sizes.c.digest == digest))


def unmeasured(tx: Connection) -> Collection[str]:
    """Digests of living versions and checkpoints that came before anybody wrote down how much they hold."""
    known = select(sizes.c.digest)
    of_versions = select(versions.c.digest).where(
        versions.c.deleted_at.is_(None), versions.c.digest.not_in(known)
    )
    of_checkpoints = select(checkpoints.c.digest).where(
        checkpoints.c.deleted_at.is_(None), checkpoints.c.digest.not_in(known)
    )
    return set(tx.execute(of_versions.union(of_checkpoints)).scalars())


def _announced(tenant: str, now: float) -> Select[Any]:
    """What pending uploads have announced, or hold already where that is more."""
    held = (
        select(func.coalesce(func.sum(upload_parts.c.bytes), 0))
        .where(upload_parts.c.upload_id == uploads.c.id)
        .correlate(uploads)
        .scalar_subquery()
    )
    return select(func.sum(case((held > uploads.c.bytes, held), else_=uploads.c.bytes))).where(
        uploads.c.tenant == tenant,
        uploads.c.status == UploadStatus.PENDING.value,
        uploads.c.expires_at > now,
    )


def _total(tx: Connection, query: Select[Any]) -> int:
    return int(tx.execute(query).scalar() or 0)
