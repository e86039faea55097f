"""Statements about verdicts: what engines were found to compute of the files of a digest."""

from sqlalchemy import Connection, delete, insert, select, update

from adapters.db.revision import raise_revision
from adapters.db.rows import to_version
from adapters.db.schema import adapters, verdicts, versions
from adapters.proof import Outcome, Verdict
from adapters.records import Version

_CONDEMNED = verdicts.c.outcome == Outcome.QUARANTINED.value


def find_verdict(tx: Connection, digest: str, engine: str) -> Verdict | None:
    """A quarantine, whichever engine led to it; else what that engine was found to compute, if it was looked at."""
    query = select(verdicts).where(
        verdicts.c.digest == digest, _CONDEMNED | (verdicts.c.engine == engine)
    )
    rows = tx.execute(query.order_by(_CONDEMNED.desc()).limit(1)).all()
    return next((Verdict(outcome=Outcome(row.outcome), reason=row.reason) for row in rows), None)


def add_verdict(tx: Connection, digest: str, engine: str, verdict: Verdict, now: float) -> None:
    """Record what an engine was found to compute."""
    tx.execute(
        insert(verdicts).values(
            digest=digest,
            engine=engine,
            outcome=verdict.outcome.value,
            reason=verdict.reason,
            created_at=now,
        )
    )


def forget_verdicts(tx: Connection, digest: str) -> None:
    """Have the next engine that loads these files looked at again."""
    tx.execute(delete(verdicts).where(verdicts.c.digest == digest))


def touch_versions(tx: Connection, digest: str) -> list[Version]:
    """Tell caches that versions with these files have changed; returns the living ones."""
    revision = raise_revision(tx)
    query = select(versions).where(versions.c.digest == digest, versions.c.deleted_at.is_(None))
    found = [to_version(row) for row in tx.execute(query)]
    names = [version.adapter for version in found]
    tx.execute(update(adapters).where(adapters.c.name.in_(names)).values(revision=revision))
    return found
