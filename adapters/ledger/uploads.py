"""Uploads: files that come in parts, and are files once they are complete."""

from collections.abc import Callable, Sequence
from pathlib import Path

from adapters.artifacts import Artifacts, digest_file
from adapters.clock import Clock
from adapters.db import files as file_rows, replies, storage, uploads as upload_rows
from adapters.db.connect import Conflict, Database
from adapters.errors import ArtifactCorrupt, InvalidValue, OverQuota, UploadNotPending
from adapters.files import (
    UPLOAD_SECONDS,
    FileReport,
    NewFile,
    NewUpload,
    Part,
    Upload,
    UploadStatus,
)
from adapters.ledger.files import RETRY_SECONDS, kept
from adapters.names import new_id
from adapters.parts import Joined, Parts
from adapters.records import IdempotencyKey, Reply

#: How long after its hour an upload is still known: as long as a stored reply.
_REMEMBERED_S = 24 * 3600.0
#: No part is wanted for longer than an upload lives; what is this old was left by a process that was killed.
_ABANDONED_S = 24 * 3600.0
#: Parts may hold this many times what was announced: room for those that were cut wrongly and sent anew.
_SLACK = 2


class UploadDesk:
    """Uploads."""

    def __init__(
        self,
        database: Database,
        artifacts: Artifacts,
        parts: Parts,
        clock: Clock,
        *,
        most_bytes: int | None = None,
    ) -> None:
        self._db, self._artifacts, self._parts, self._clock = database, artifacts, parts, clock
        #: What a tenant may keep in all. An upload takes what it has announced from its beginning on.
        self._most_bytes = most_bytes

    def create(
        self,
        new: NewUpload,
        *,
        key: IdempotencyKey | None = None,
        retried: bool = False,
        render: Callable[[Upload], Reply],
    ) -> Reply:
        """Begin an upload and store what is answered. Two requests with one key begin one.

        `retried` says that the client repeats itself and has sent no key: an upload like this one, begun within the
        last ten minutes and still without parts, is what its first try has made.

        Raises:
            IdempotencyKeyReused: the key came with another request before.
            OverQuota: the tenant may not keep so much.
        """
        try:
            with self._db.write() as tx:
                now = self._clock()
                since = now - RETRY_SECONDS
                upload = upload_rows.find_twin(tx, new, now, since=since) if retried else None
                if upload is None:
                    storage.require_room(tx, self._most_bytes, now, more=new.bytes)
                    upload = _pending(new, now)
                    upload_rows.add_upload(tx, upload)
                reply = render(upload)
                if key is not None:
                    replies.store_reply(tx, key, reply, now)
                return reply
        except (Conflict, OverQuota):
            # The other request with this key has committed first, and taken the room: answer as it was answered.
            stored = self._find_reply(key) if key is not None else None
            if stored is None:
                raise
            return stored

    def get(self, upload_id: str) -> Upload:
        """Raises UploadNotFound."""
        with self._db.read() as tx:
            return upload_rows.get_upload(tx, upload_id, self._clock())

    def add_part(self, upload_id: str, path: Path) -> Part:
        """Keep a part, whose bytes are moved.

        The same bytes again are the same part, so that a client may repeat itself. A file in which they come twice is
        none the worse: a completion may name a part more than once.

        Raises:
            UploadNotFound, UploadNotPending
            InvalidValue: the parts would hold more than twice what was announced.
            OverQuota: they would hold more than that, and the tenant may not keep so much.
        """
        part = Part(
            id=new_id("part_"),
            upload_id=upload_id,
            bytes=path.stat().st_size,
            digest=digest_file(path),
            created_at=self._clock(),
        )
        with (
            self._db.read() as tx
        ):  # before the bytes are kept, so that what is refused costs nothing
            upload_rows.require_pending(upload_rows.get_upload(tx, upload_id, part.created_at))
            twin = upload_rows.find_part(tx, upload_id, part.digest)
        if twin is not None:
            return twin
        self._parts.take(path, part.id)
        try:
            with self._db.write() as tx:
                upload = upload_rows.hold_pending(tx, upload_id, part.created_at)
                before = upload_rows.parts_bytes(tx, upload_id)
                _require_room(upload, before + part.bytes)
                beyond = before + part.bytes - max(before, upload.bytes)
                if beyond > 0:
                    storage.require_room(tx, self._most_bytes, part.created_at, more=beyond)
                upload_rows.add_part(tx, part)
        except (UploadNotPending, InvalidValue, OverQuota):
            self._parts.delete(part.id)
            raise
        return part

    def complete(
        self,
        upload_id: str,
        part_ids: Sequence[str],
        *,
        md5: str | None = None,
        judge: Callable[[Path], FileReport | None],
    ) -> Upload:
        """Make the parts one file, in that order. Again with the same parts, it answers the same.

        `judge` is shown the file before it is kept.

        Raises:
            UploadNotFound, UploadNotPending
            InvalidValue: a part that is not there, a sum that is not what was announced, another MD5.
            OverQuota: something else has taken the room.
        """
        with self._db.read() as tx:
            upload = upload_rows.get_upload(tx, upload_id, self._clock())
            parts = {part.id: part for part in upload_rows.list_parts(tx, upload_id)}
        if upload.status is UploadStatus.COMPLETED:
            return _as_before(upload, part_ids)
        upload_rows.require_pending(upload)
        _require_whole(upload, part_ids, parts)
        try:
            with self._parts.joined([parts[part_id] for part_id in part_ids]) as joined:
                _require_md5(joined, md5)
                self._keep(upload, part_ids, joined, judge(joined.path))
        except ArtifactCorrupt:
            # Somebody else has completed or cancelled it meanwhile, and its parts are gone.
            if self.get(upload_id).status is UploadStatus.PENDING:
                raise
        after = self.get(upload_id)
        if after.status is not UploadStatus.COMPLETED:
            upload_rows.require_pending(after)
        return _as_before(after, part_ids)

    def cancel(self, upload_id: str) -> Upload:
        """End an upload; again, it answers the same. Raises UploadNotFound, UploadNotPending."""
        with self._db.write() as tx:
            now = self._clock()
            upload = upload_rows.get_upload(tx, upload_id, now)
            if upload.status is not UploadStatus.CANCELLED:
                upload_rows.hold_pending(tx, upload_id, now)
                upload_rows.cancel_upload(tx, upload_id)
            return upload_rows.get_upload(tx, upload_id, now)

    def purge(self, *, older_than: float) -> int:
        """Remove the parts of uploads that have ended, of expired ones that many seconds after; returns how many.

        Also sweeps up parts that processes left when they were killed, and forgets uploads of yesterday.
        """
        self._parts.sweep(older_than=_ABANDONED_S)
        now = self._clock()
        with self._db.read() as tx:
            finished = upload_rows.finished_uploads(tx, before=now - older_than)
        removed = 0
        for upload_id in finished:
            with self._db.write() as tx:
                part_ids = upload_rows.forget_parts(tx, upload_id)
            for part_id in part_ids:
                self._parts.delete(part_id)
            removed += len(part_ids)
        with self._db.write() as tx:
            upload_rows.forget_uploads(tx, before=now - _REMEMBERED_S)
        return removed

    def _keep(
        self, upload: Upload, part_ids: Sequence[str], joined: Joined, report: FileReport | None
    ) -> None:
        new = NewFile(
            filename=upload.filename,
            purpose=upload.purpose,
            bytes=joined.bytes,
            digest=joined.sha256,
            expires_after=upload.expires_after,
            report=report,
        )
        file = kept(new, self._clock())
        self._artifacts.take_file(joined.path, file.id)
        try:
            with self._db.write() as tx:
                mine = upload_rows.complete_upload(
                    tx, upload.id, file_id=file.id, part_ids=part_ids
                )
                if mine:
                    storage.require_room(tx, self._most_bytes, file.created_at, more=file.bytes)
                    file_rows.add_file(tx, file)
        except OverQuota:
            self._artifacts.delete_file(file.id)
            raise
        if not mine:  # somebody else was faster; what they have made counts
            self._artifacts.delete_file(file.id)

    def _find_reply(self, key: IdempotencyKey) -> Reply | None:
        with self._db.read() as tx:
            return replies.find_reply(tx, key, self._clock())


def _pending(new: NewUpload, now: float) -> Upload:
    return Upload(
        id=new_id("upload_"),
        bytes=new.bytes,
        filename=new.filename,
        mime_type=new.mime_type,
        purpose=new.purpose,
        expires_after=new.expires_after,
        status=UploadStatus.PENDING,
        created_at=now,
        expires_at=now + UPLOAD_SECONDS,
    )


def _as_before(upload: Upload, part_ids: Sequence[str]) -> Upload:
    if upload.part_ids != tuple(part_ids):
        raise UploadNotPending(
            f"The upload {upload.id} has been completed with other parts.", param="part_ids"
        )
    return upload


def _require_room(upload: Upload, together: int) -> None:
    if together > upload.bytes * _SLACK:
        raise InvalidValue(
            f"The parts of {upload.id} would hold {together:,} bytes, and {upload.bytes:,} were announced.",
            param="data",
        )


def _require_whole(upload: Upload, part_ids: Sequence[str], parts: dict[str, Part]) -> None:
    for part_id in part_ids:
        if part_id not in parts:
            raise InvalidValue(f"{upload.id} has no part '{part_id}'.", param="part_ids")
    together = sum(parts[part_id].bytes for part_id in part_ids)
    if together != upload.bytes:
        raise InvalidValue(
            f"These parts hold {together:,} bytes, and {upload.bytes:,} were announced.",
            param="part_ids",
        )


def _require_md5(joined: Joined, md5: str | None) -> None:
    if md5 is not None and md5.lower() != joined.md5:
        raise InvalidValue(
            f"The parts in this order have the MD5 {joined.md5}, not {md5}.", param="md5"
        )
