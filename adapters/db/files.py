"""Statements about uploaded files. One that has expired is as if deleted, unless a living job needs it."""

from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, delete, exists, insert, or_, select

from adapters.db.rows import dump_report, to_file
from adapters.db.schema import files, jobs
from adapters.db.tenancy import mine, owner
from adapters.errors import FileInUse, FileNotFound
from adapters.files import File
from adapters.records import JobStatus

_LIVE = [status.value for status in JobStatus if not status.terminal]


def add_file(tx: Connection, file: File) -> None:
    """Record an uploaded file whose bytes are already in the artifact store."""
    tx.execute(
        insert(files).values(
            id=file.id,
            filename=file.filename,
            purpose=file.purpose,
            bytes=file.bytes,
            digest=file.digest,
            created_at=file.created_at,
            expires_at=file.expires_at,
            report=dump_report(file.report),
            tenant=owner(tx),
        )
    )


def get_file(tx: Connection, file_id: str, now: float, *, param: str = "file_id") -> File:
    """Look a file up.

    Raises:
        FileNotFound: there is none of that id; the error names `param`.
    """
    file = find_file(tx, file_id, now)
    if file is None:
        raise FileNotFound(f"No file has the id '{file_id}'.", param=param)
    return file


def find_file(tx: Connection, file_id: str, now: float) -> File | None:
    """The file of that id, if there is one."""
    row = tx.execute(
        select(files).where(files.c.id == file_id, kept_at(now), mine(tx, files))
    ).first()
    return to_file(row) if row is not None else None


def find_twin(tx: Connection, file: File, *, since: float) -> File | None:
    """The newest file of the same bytes, name and purpose that has come since then."""
    row = tx.execute(
        select(files)
        .where(
            files.c.created_at >= since,
            files.c.digest == file.digest,
            files.c.filename == file.filename,
            files.c.purpose == file.purpose,
            kept_at(file.created_at),
            mine(tx, files),
        )
        .order_by(files.c.created_at.desc(), files.c.id.desc())
        .limit(1)
    ).first()
    return to_file(row) if row is not None else None


def list_files(
    tx: Connection,
    now: float,
    *,
    after: str | None,
    limit: int,
    ascending: bool,
    purpose: str | None,
) -> list[File]:
    """A page, in the order in which they came or the other way round; `after` ends the page before.

    Raises:
        FileNotFound: `after` is no file.
    """
    keys = (files.c.created_at, files.c.id)
    query = select(files).where(kept_at(now), mine(tx, files)).limit(limit)
    query = query.order_by(*(key if ascending else key.desc() for key in keys))
    if purpose is not None:
        query = query.where(files.c.purpose == purpose)
    if after is not None:
        query = query.where(_beyond(get_file(tx, after, now, param="after"), ascending=ascending))
    return [to_file(row) for row in tx.execute(query)]


def delete_file(tx: Connection, file_id: str, now: float) -> File:
    """Forget a file and return what it was.

    Raises:
        FileNotFound: there is none of that id.
        FileInUse: a job that has not ended still needs it.
    """
    file = get_file(tx, file_id, now)
    user = tx.execute(select(jobs.c.id).where(_uses(file_id)).limit(1)).scalar()
    if user is not None:
        raise FileInUse(f"The job {user} still needs the file. Cancel it first.", param="file_id")
    tx.execute(delete(files).where(files.c.id == file_id))
    return file


def expired_files(tx: Connection, *, before: float) -> list[str]:
    """The ids of files that expired before then and that no living job needs."""
    return list(tx.execute(select(files.c.id).where(_gone(before))).scalars())


def forget_expired(tx: Connection, file_id: str, *, before: float) -> bool:
    """Forget the file, unless a job has come to need it; says whether."""
    gone = delete(files).where(files.c.id == file_id, _gone(before)).returning(files.c.id)
    return tx.execute(gone).first() is not None


def _beyond(last: File, *, ascending: bool) -> ColumnElement[bool]:
    created_at, file_id = files.c.created_at, files.c.id
    if ascending:
        further, next_id = created_at > last.created_at, file_id > last.id
    else:
        further, next_id = created_at < last.created_at, file_id < last.id
    return or_(further, and_(created_at == last.created_at, next_id))


def kept_at(now: float) -> ColumnElement[bool]:
    """That a file has not expired by then, or that a living job needs it."""
    return or_(files.c.expires_at.is_(None), files.c.expires_at > now, _needed())


def _gone(before: float) -> ColumnElement[bool]:
    return and_(files.c.expires_at <= before, ~_needed())


def _needed() -> ColumnElement[bool]:
    return exists().where(_uses(files.c.id)).correlate(files)


def _uses(file_id: Any) -> ColumnElement[bool]:
    of_job = or_(jobs.c.training_file == file_id, jobs.c.validation_file == file_id)
    return and_(of_job, jobs.c.status.in_(_LIVE))
