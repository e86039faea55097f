"""What the ledger names of what lies in the store, and which ledger it is. For sweeps: always of everybody's rows."""

from collections.abc import Collection

from sqlalchemy import Connection, select

from adapters.db.schema import checkpoints, files, jobs, ledgers, versions
from adapters.records import JobStatus

_ENDED = [status.value for status in JobStatus if status.terminal]


def identity(tx: Connection) -> tuple[str, float]:
    """The ledger's id, and since when it is there; Unix seconds."""
    row = tx.execute(select(ledgers.c.id, ledgers.c.created_at)).one()
    return row.id, row.created_at


def named_files(tx: Connection, ids: Collection[str]) -> set[str]:
    """Those of these files that the ledger knows."""
    return set(tx.execute(select(files.c.id).where(files.c.id.in_(ids))).scalars())


def named_digests(tx: Connection, digests: Collection[str]) -> set[str]:
    """Those of these digests that a version or a checkpoint has whose files are still kept."""
    of_versions = select(versions.c.digest).where(
        versions.c.digest.in_(digests), versions.c.purged_at.is_(None)
    )
    of_checkpoints = select(checkpoints.c.digest).where(checkpoints.c.digest.in_(digests))
    return {*tx.execute(of_versions).scalars(), *tx.execute(of_checkpoints).scalars()}


def unended_jobs(tx: Connection, ids: Collection[str]) -> set[str]:
    """Those of these jobs that there are, and that have not ended."""
    query = select(jobs.c.id).where(jobs.c.id.in_(ids), jobs.c.status.not_in(_ENDED))
    return set(tx.execute(query).scalars())
