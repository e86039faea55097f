"""Statements about checkpoints that can be asked: a job's newest few, each with files in the artifact store."""

from collections.abc import Sequence

from sqlalchemy import ColumnElement, Connection, Select, delete, insert, select, update
from sqlalchemy.sql.dml import Update

from adapters.db.rows import dump_manifest, to_checkpoint
from adapters.db.schema import checkpoints, jobs, versions
from adapters.db.tenancy import of_my_jobs
from adapters.db.verdicts import forget_verdicts
from adapters.errors import AdapterNotFound, InvalidValue
from adapters.records import JobStatus
from adapters.weights import Checkpoint

_ALIVE = checkpoints.c.deleted_at.is_(None)
_IN_VAIN = [JobStatus.FAILED.value, JobStatus.CANCELLED.value]


def add_checkpoint(tx: Connection, checkpoint: Checkpoint) -> bool:
    """Record it. False where the job has one of that step: a later attempt has been there again."""
    known = select(checkpoints.c.id).where(
        checkpoints.c.job_id == checkpoint.job_id, checkpoints.c.step == checkpoint.step
    )
    if tx.execute(known).first() is not None:
        return False
    tx.execute(
        insert(checkpoints).values(
            id=checkpoint.id,
            job_id=checkpoint.job_id,
            adapter=checkpoint.adapter,
            base_model=checkpoint.base_model,
            step=checkpoint.step,
            name=checkpoint.name,
            digest=checkpoint.digest,
            manifest=dump_manifest(checkpoint.manifest),
            created_at=checkpoint.created_at,
        )
    )
    return True


def list_checkpoints(
    tx: Connection, job_id: str, *, after: str | None, limit: int
) -> list[Checkpoint]:
    """Newest first; `after` is the id of the last one of the page before.

    Raises:
        InvalidValue: the job has none of that id.
    """
    query = select(checkpoints).where(
        checkpoints.c.job_id == job_id, of_my_jobs(tx, checkpoints.c.job_id)
    )
    if after is not None:
        last = tx.execute(query.where(checkpoints.c.id == after)).first()
        if last is None:
            raise InvalidValue(f"The job has no checkpoint '{after}'.", param="after")
        query = query.where(checkpoints.c.step < last.step)
    newest = query.where(_ALIVE).order_by(checkpoints.c.step.desc()).limit(limit)
    return [to_checkpoint(row) for row in tx.execute(newest)]


def get_checkpoint(tx: Connection, name: str, *, also_deleted: bool) -> Checkpoint:
    """Look one up by the name that it answers to.

    Raises:
        AdapterNotFound: there is none of that name, or it has been deleted.
    """
    query = select(checkpoints).where(
        checkpoints.c.name == name, of_my_jobs(tx, checkpoints.c.job_id)
    )
    row = tx.execute(query if also_deleted else query.where(_ALIVE)).first()
    if row is None:
        raise AdapterNotFound(f"There is no checkpoint '{name}'.", param="name")
    return to_checkpoint(row)


def prune_checkpoints(tx: Connection, job_id: str, *, kept: int, now: float) -> bool:
    """Delete all but the newest few of a job. Returns whether there were more.

    Their files go later: an engine may be reading them.
    """
    newest = (
        select(checkpoints.c.step)
        .where(checkpoints.c.job_id == job_id, _ALIVE)
        .order_by(checkpoints.c.step.desc())
        .limit(kept)
    )
    steps = [row.step for row in tx.execute(newest)]
    return _deleted(tx, _delete(now).where(_of(job_id), checkpoints.c.step.not_in(steps)))


def delete_of_job(tx: Connection, job_id: str | None, now: float) -> None:
    """Delete those of a job."""
    tx.execute(_delete(now).where(_of(job_id)))


def delete_of_adapter(tx: Connection, adapter: str, now: float) -> None:
    """Delete those of an adapter's jobs."""
    tx.execute(_delete(now).where(checkpoints.c.adapter == adapter))


def expire_checkpoints(tx: Connection, *, ended_before: float, now: float) -> bool:
    """Delete those of jobs that failed or were cancelled before then. Returns whether there were any."""
    in_vain = select(jobs.c.id).where(
        jobs.c.status.in_(_IN_VAIN), jobs.c.finished_at < ended_before
    )
    return _deleted(tx, _delete(now).where(checkpoints.c.job_id.in_(in_vain)))


def purgeable_checkpoints(tx: Connection, *, before: float) -> list[Checkpoint]:
    """Those deleted before then, whose files still lie in the store."""
    query = select(checkpoints).where(checkpoints.c.deleted_at < before)
    return [to_checkpoint(row) for row in tx.execute(query)]


def forget_checkpoint(tx: Connection, checkpoint: Checkpoint) -> bool:
    """Remove the row; False where something else still has the same bytes and they must stay."""
    tx.execute(delete(checkpoints).where(checkpoints.c.id == checkpoint.id))
    if any(tx.execute(query).first() for query in _named(checkpoint.digest)):
        return False
    forget_verdicts(tx, checkpoint.digest)
    return True


def _named(digest: str) -> Sequence[Select[tuple[str]]]:
    """Whatever still needs the files of that digest."""
    return (
        select(versions.c.adapter).where(
            versions.c.digest == digest, versions.c.purged_at.is_(None)
        ),
        select(checkpoints.c.id).where(checkpoints.c.digest == digest),
    )


def _of(job_id: str | None) -> ColumnElement[bool]:
    return checkpoints.c.job_id == job_id


def _delete(now: float) -> Update:
    return update(checkpoints).where(_ALIVE).values(deleted_at=now)


def _deleted(tx: Connection, deletion: Update) -> bool:
    return bool(tx.execute(deletion.returning(checkpoints.c.id)).all())
