"""Uploaded files: bytes in the artifact store, what is known of them in the database."""

from collections.abc import Callable, Sequence
from pathlib import Path

from adapters.artifacts import Artifacts, digest_file
from adapters.clock import Clock
from adapters.db import files as file_rows, replies, storage
from adapters.db.connect import Conflict, Database
from adapters.errors import OverQuota
from adapters.files import File, FileReport, NewFile
from adapters.names import new_id
from adapters.records import IdempotencyKey, Reply

#: A repeated request without a key finds what the first one made for this long.
RETRY_SECONDS = 600.0


class FileShelf:
    """Uploaded files."""

    def __init__(
        self,
        database: Database,
        artifacts: Artifacts,
        clock: Clock,
        *,
        most_bytes: int | None = None,
    ) -> None:
        self._db, self._artifacts, self._clock = database, artifacts, clock
        #: What a tenant may keep in all.
        self._most_bytes = most_bytes

    def add(
        self, path: Path, *, filename: str, purpose: str, report: FileReport | None = None
    ) -> File:
        """Keep a copy of a file's bytes, then record it. Raises OverQuota."""
        new = NewFile(
            filename=filename,
            purpose=purpose,
            bytes=path.stat().st_size,
            digest=digest_file(path),
            report=report,
        )
        file = kept(new, self._clock())
        self._artifacts.put_file(path, file.id)
        try:
            with self._db.write() as tx:
                storage.require_room(tx, self._most_bytes, file.created_at, more=file.bytes)
                file_rows.add_file(tx, file)
        except OverQuota:
            self._artifacts.delete_file(file.id)
            raise
        return file

    def find_reply(self, key: IdempotencyKey) -> Reply | None:
        """What a repeated request gets back. Raises IdempotencyKeyReused."""
        with self._db.read() as tx:
            return replies.find_reply(tx, key, self._clock())

    def submit(
        self,
        path: Path,
        new: NewFile,
        *,
        key: IdempotencyKey | None = None,
        retried: bool = False,
        render: Callable[[File], Reply],
    ) -> Reply:
        """Keep a file, whose bytes are moved, and store what is answered. Two requests with one key make one file.

        `retried` says that the client repeats itself and has sent no key: the same bytes of that name and purpose,
        brought within the last ten minutes, are what its first try has made.

        Raises:
            IdempotencyKeyReused: the key came with another request before.
            OverQuota: the tenant may not keep so much.
        """
        file = kept(new, self._clock())
        self._artifacts.take_file(path, file.id)
        try:
            with self._db.write() as tx:
                since = file.created_at - RETRY_SECONDS
                twin = file_rows.find_twin(tx, file, since=since) if retried else None
                if twin is None:
                    storage.require_room(tx, self._most_bytes, file.created_at, more=file.bytes)
                    file_rows.add_file(tx, file)
                reply = render(twin or file)
                if key is not None:
                    replies.store_reply(tx, key, reply, file.created_at)
        except (Conflict, OverQuota):
            # The other request with this key has committed first, and taken the room: answer as it was answered.
            self._artifacts.delete_file(file.id)
            stored = self.find_reply(key) if key is not None else None
            if stored is None:
                raise
            return stored
        if twin is not None:
            self._artifacts.delete_file(file.id)
        return reply

    def get(self, file_id: str) -> File:
        """Raises FileNotFound."""
        with self._db.read() as tx:
            return file_rows.get_file(tx, file_id, self._clock())

    def path(self, file_id: str) -> Path:
        """A local path to the bytes of a job's file. Raises FileNotFound."""
        with self._db.read() as tx:
            file = file_rows.get_file(tx, file_id, self._clock(), param="training_file")
        return self._artifacts.file(file.id, file.digest)

    def lend(self, file_id: str, into: Path) -> Path:
        """The same, and it stays until the caller removes the folder `into`, in which it may lie."""
        file = self.get(file_id)
        return self._artifacts.lend_file(file.id, file.digest, into)

    def list(
        self,
        *,
        after: str | None = None,
        limit: int = 10_000,
        ascending: bool = False,
        purpose: str | None = None,
    ) -> Sequence[File]:
        """Newest first, unless told otherwise. Raises FileNotFound for an unknown `after`."""
        with self._db.read() as tx:
            return file_rows.list_files(
                tx, self._clock(), after=after, limit=limit, ascending=ascending, purpose=purpose
            )

    def delete(self, file_id: str) -> File:
        """Forget the file and its bytes. Raises FileNotFound, FileInUse."""
        with self._db.write() as tx:
            file = file_rows.delete_file(tx, file_id, self._clock())
        self._artifacts.delete_file(file.id)
        return file

    def purge(self, *, older_than: float) -> int:
        """Forget files that expired that many seconds ago, with their bytes; returns how many.

        Not at once: a request that has just looked at a file may be about to make it a job's.
        """
        before = self._clock() - older_than
        with self._db.read() as tx:
            expired = file_rows.expired_files(tx, before=before)
        purged = 0
        for file_id in expired:
            with self._db.write() as tx:
                gone = file_rows.forget_expired(tx, file_id, before=before)
            if gone:
                self._artifacts.delete_file(file_id)
                purged += 1
        return purged


def kept(new: NewFile, now: float) -> File:
    """The file that a new one becomes."""
    return File(
        id=new_id("file-"),
        filename=new.filename,
        purpose=new.purpose,
        bytes=new.bytes,
        digest=new.digest,
        created_at=now,
        expires_at=None if new.expires_after is None else now + new.expires_after,
        report=new.report,
    )
