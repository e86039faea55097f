"""Statements about uploaded files."""

from sqlalchemy import Connection, delete, insert, or_, select

from adapters.db.rows import to_file
from adapters.db.schema import files, jobs
from adapters.errors import FileInUse, FileNotFound
from adapters.records import File, JobStatus

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
        )
    )


def get_file(tx: Connection, file_id: str) -> File:
    """Look a file up.

    Raises:
        FileNotFound: there is none of that id.
    """
    row = tx.execute(select(files).where(files.c.id == file_id)).first()
    if row is None:
        raise FileNotFound(f"No file has the id '{file_id}'.", param="training_file")
    return to_file(row)


def list_files(tx: Connection, *, limit: int) -> list[File]:
    """Newest first."""
    rows = tx.execute(select(files).order_by(files.c.created_at.desc(), files.c.id).limit(limit))
    return [to_file(row) for row in rows]


def delete_file(tx: Connection, file_id: str) -> File:
    """Forget a file and return what it was.

    Raises:
        FileNotFound: there is none of that id.
        FileInUse: a job that has not ended still needs it.
    """
    file = get_file(tx, file_id)
    user = tx.execute(
        select(jobs.c.id)
        .where(or_(jobs.c.training_file == file_id, jobs.c.validation_file == file_id))
        .where(jobs.c.status.in_(_LIVE))
        .limit(1)
    ).scalar()
    if user is not None:
        raise FileInUse(f"The job {user} still needs the file. Cancel it first.", param="file_id")
    tx.execute(delete(files).where(files.c.id == file_id))
    return file
