"""Uploaded files: bytes in the artifact store, what is known of them in the database."""

from collections.abc import Sequence
from pathlib import Path

from adapters.artifacts import Artifacts, digest_file
from adapters.clock import Clock
from adapters.db import files as file_rows
from adapters.db.connect import Database
from adapters.names import new_id
from adapters.records import File


class FileShelf:
    """Uploaded files."""

    def __init__(self, database: Database, artifacts: Artifacts, clock: Clock) -> None:
        self._db, self._artifacts, self._clock = database, artifacts, clock

    def add(self, path: Path, *, filename: str, purpose: str) -> File:
        """Keep a file's bytes, then record it."""
        file = File(
            id=new_id("file-"),
            filename=filename,
            purpose=purpose,
            bytes=path.stat().st_size,
            digest=digest_file(path),
            created_at=self._clock(),
        )
        self._artifacts.put_file(path, file.id)
        with self._db.write() as tx:
            file_rows.add_file(tx, file)
        return file

    def get(self, file_id: str) -> File:
        """Raises FileNotFound."""
        with self._db.read() as tx:
            return file_rows.get_file(tx, file_id)

    def path(self, file_id: str) -> Path:
        """A local path to the file's bytes. Raises FileNotFound."""
        return self._artifacts.file(self.get(file_id).id)

    def list(self, *, limit: int = 10_000) -> Sequence[File]:
        """Newest first."""
        with self._db.read() as tx:
            return file_rows.list_files(tx, limit=limit)

    def delete(self, file_id: str) -> File:
        """Forget the file and its bytes. Raises FileNotFound, FileInUse."""
        with self._db.write() as tx:
            file = file_rows.delete_file(tx, file_id)
        self._artifacts.delete_file(file.id)
        return file
