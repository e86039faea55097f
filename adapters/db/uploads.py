"""Statements about uploads and their parts.

Whatever changes an upload locks its row first, so that a part cannot slip in beside a completion.
"""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Row, and_, delete, exists, func, insert, or_, select, update

from adapters.db.files import find_file
from adapters.db.rows import to_part, to_upload
from adapters.db.schema import upload_parts, uploads
from adapters.db.tenancy import mine, owner
from adapters.errors import UploadNotFound, UploadNotPending
from adapters.files import NewUpload, Part, Upload, UploadStatus

_PENDING = UploadStatus.PENDING.value


def add_upload(tx: Connection, upload: Upload) -> None:
    """Record an upload that has just been announced."""
    tx.execute(
        insert(uploads).values(
            id=upload.id,
            bytes=upload.bytes,
            filename=upload.filename,
            mime_type=upload.mime_type,
            purpose=upload.purpose,
            expires_after=upload.expires_after,
            status=upload.status.value,
            created_at=upload.created_at,
            expires_at=upload.expires_at,
            tenant=owner(tx),
        )
    )


def get_upload(tx: Connection, upload_id: str, now: float) -> Upload:
    """Look an upload up.

    Raises:
        UploadNotFound: there is none of that id.
    """
    row = tx.execute(select(uploads).where(uploads.c.id == upload_id, mine(tx, uploads))).first()
    return _upload(tx, row, upload_id, now)


def hold_pending(tx: Connection, upload_id: str, now: float) -> Upload:
    """Lock a pending upload for the rest of the transaction.

    Raises:
        UploadNotFound: there is none of that id.
        UploadNotPending: it has been completed or cancelled, or has expired.
    """
    query = select(uploads).where(uploads.c.id == upload_id, mine(tx, uploads)).with_for_update()
    upload = _upload(tx, tx.execute(query).first(), upload_id, now)
    require_pending(upload)
    return upload


def require_pending(upload: Upload) -> None:
    """Raise UploadNotPending unless the upload is."""
    if upload.status is not UploadStatus.PENDING:
        how = "has expired" if upload.status is UploadStatus.EXPIRED else f"is {upload.status}"
        raise UploadNotPending(f"The upload {upload.id} {how}. Begin another.", param="upload_id")


def find_twin(tx: Connection, new: NewUpload, now: float, *, since: float) -> Upload | None:
    """The newest upload like this one that has come since then, is pending and has no part yet."""
    query = (
        select(uploads)
        .where(
            uploads.c.created_at >= since,
            mine(tx, uploads),
            uploads.c.expires_at > now,
            uploads.c.status == _PENDING,
            uploads.c.bytes == new.bytes,
            uploads.c.filename == new.filename,
            uploads.c.mime_type == new.mime_type,
            uploads.c.purpose == new.purpose,
            uploads.c.expires_after.is_not_distinct_from(new.expires_after),
            ~exists().where(upload_parts.c.upload_id == uploads.c.id),
        )
        .order_by(uploads.c.created_at.desc(), uploads.c.id.desc())
        .limit(1)
    )
    row = tx.execute(query).first()
    return to_upload(row, now, file=None) if row is not None else None


def add_part(tx: Connection, part: Part) -> None:
    """Record a part whose bytes are durable."""
    tx.execute(
        insert(upload_parts).values(
            id=part.id,
            upload_id=part.upload_id,
            bytes=part.bytes,
            digest=part.digest,
            created_at=part.created_at,
        )
    )


def list_parts(tx: Connection, upload_id: str) -> list[Part]:
    """All parts of an upload, in no particular order."""
    query = select(upload_parts).where(upload_parts.c.upload_id == upload_id)
    return [to_part(row) for row in tx.execute(query)]


def find_part(tx: Connection, upload_id: str, digest: str) -> Part | None:
    """A part of the upload that has those bytes."""
    query = select(upload_parts).where(
        upload_parts.c.upload_id == upload_id, upload_parts.c.digest == digest
    )
    row = tx.execute(query.limit(1)).first()
    return to_part(row) if row is not None else None


def parts_bytes(tx: Connection, upload_id: str) -> int:
    """What the parts of an upload hold together."""
    total = select(func.coalesce(func.sum(upload_parts.c.bytes), 0)).where(
        upload_parts.c.upload_id == upload_id
    )
    return int(tx.execute(total).scalar_one())


def complete_upload(
    tx: Connection, upload_id: str, *, file_id: str, part_ids: Sequence[str]
) -> bool:
    """Make the upload completed if it is still pending; says whether. Its last minute is not looked at again."""
    return _leave_pending(
        tx, upload_id, UploadStatus.COMPLETED, file_id=file_id, part_ids=list(part_ids)
    )


def cancel_upload(tx: Connection, upload_id: str) -> None:
    """Make a pending upload cancelled."""
    _leave_pending(tx, upload_id, UploadStatus.CANCELLED)


def finished_uploads(tx: Connection, *, before: float) -> list[str]:
    """The ids of those that have parts and want them no more; pending ones, if they expired before then."""
    done = or_(
        uploads.c.status != _PENDING,
        and_(uploads.c.status == _PENDING, uploads.c.expires_at < before),
    )
    parts = exists().where(upload_parts.c.upload_id == uploads.c.id)
    return list(tx.execute(select(uploads.c.id).where(done, parts)).scalars())


def forget_parts(tx: Connection, upload_id: str) -> list[str]:
    """Forget the parts of a finished upload and return their ids; a pending one is expired from now on."""
    _leave_pending(tx, upload_id, UploadStatus.EXPIRED)
    gone = delete(upload_parts).where(upload_parts.c.upload_id == upload_id)
    return list(tx.execute(gone.returning(upload_parts.c.id)).scalars())


def forget_uploads(tx: Connection, *, before: float) -> None:
    """Forget uploads that would have expired before then and have no parts left."""
    parts = exists().where(upload_parts.c.upload_id == uploads.c.id)
    tx.execute(delete(uploads).where(uploads.c.expires_at < before, ~parts))


def _leave_pending(tx: Connection, upload_id: str, status: UploadStatus, **values: object) -> bool:
    row = tx.execute(
        update(uploads)
        .where(uploads.c.id == upload_id, uploads.c.status == _PENDING)
        .values(status=status.value, **values)
        .returning(uploads.c.id)
    ).first()
    return row is not None


def _upload(tx: Connection, row: Row[Any] | None, asked: str, now: float) -> Upload:
    if row is None:
        raise UploadNotFound(f"No upload has the id '{asked}'.", param="upload_id")
    file = find_file(tx, row.file_id, now) if row.file_id else None
    return to_upload(row, now, file=file)
