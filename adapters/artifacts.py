"""Bytes that must not be lost: uploaded files by their id, adapter directories by their SHA-256.

    <root>/files/<file id>                one uploaded file
    <root>/versions/<digest>/<name>…      one adapter directory
    <root>/staging/<random>…              what is being written

Written aside, fsynced, renamed: whatever lies under its final name is whole. Publishing the same bytes twice is a
no-op. Files are not shared by digest: whoever deletes one must not have to know who else has just uploaded the same.
"""

import errno
import hashlib
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol
from uuid import uuid4

import obstore
import obstore.exceptions
from obstore.store import LocalStore

from adapters.durable import move, sync
from adapters.errors import ArtifactCorrupt

_CHUNK = 1 << 20


class Artifacts(Protocol):
    """Where files and versions are kept. Paths handed out are local, and whole as long as nothing deletes them."""

    def put_file(self, source: Path, file_id: str) -> None:
        """Keep a copy of a file's bytes under its id."""

    def take_file(self, source: Path, file_id: str) -> None:
        """Keep a file's bytes under its id. They are moved: `source` may be gone afterwards."""

    def file(self, file_id: str) -> Path:
        """A local path to the file's bytes. Raises ArtifactCorrupt if they are gone."""

    def delete_file(self, file_id: str) -> None:
        """Forget the file, if it is there."""

    def put_version(self, source: Path) -> str:
        """Keep the files directly inside a directory and return the digest of their names and bytes.

        Nobody writes into those files any more: the store may keep them under a second name instead of a copy.
        """

    def version(self, digest: str) -> Path:
        """A local directory with the version's files. Raises ArtifactCorrupt if it is gone."""

    def delete_version(self, digest: str) -> None:
        """Forget the version of that digest, if it is there."""

    def sweep(self, *, older_than: float) -> None:
        """Remove what killed processes left half-written, once it is that many seconds old."""


class LocalArtifacts:
    """Artifacts in a local directory."""

    def __init__(self, root: Path) -> None:
        self._root = root
        for folder in ("files", "versions", "staging"):
            (root / folder).mkdir(parents=True, exist_ok=True)
        self._store = LocalStore(root)

    def put_file(self, source: Path, file_id: str) -> None:
        target = self._root / "files" / file_id
        with self._staging() as aside:
            self._put(source, aside)
            aside.rename(target)
            sync(target.parent)

    def take_file(self, source: Path, file_id: str) -> None:
        move(source, self._root / "files" / file_id)

    def file(self, file_id: str) -> Path:
        return self._existing("files", file_id)

    def delete_file(self, file_id: str) -> None:
        (self._root / "files" / file_id).unlink(missing_ok=True)

    def put_version(self, source: Path) -> str:
        digest = digest_directory(source)
        target = self._root / "versions" / digest
        if not target.exists():
            with self._staging() as aside:
                aside.mkdir()
                for path in _files_of(source):
                    self._link_or_put(path, aside / path.name)
                sync(aside)
                aside.rename(target)
                sync(target.parent)
        return digest

    def version(self, digest: str) -> Path:
        return self._existing("versions", digest)

    def delete_version(self, digest: str) -> None:
        shutil.rmtree(self._root / "versions" / digest, ignore_errors=True)

    def sweep(self, *, older_than: float) -> None:
        # A file that comes from another file system is copied beside its final name.
        asides = (self._root / "files").glob(".*")
        for left in [*(self._root / "staging").iterdir(), *asides]:
            with suppress(
                FileNotFoundError
            ):  # where its writer lives, or another worker sweeps too
                if time.time() - left.stat().st_mtime > older_than:
                    shutil.rmtree(left, ignore_errors=True)
                    left.unlink(missing_ok=True)

    def _link_or_put(self, source: Path, target: Path) -> None:
        try:
            target.hardlink_to(source)
        except OSError:  # another file system, or one without hard links
            self._put(source, target)
        else:
            sync(target)  # costs nothing where the writer has done so

    def _put(self, source: Path, target: Path) -> None:
        try:
            obstore.put(self._store, str(target.relative_to(self._root)), source)
        except obstore.exceptions.BaseError as error:  # whose text says what the system said
            full = "No space left" in str(error)
            raise OSError(errno.ENOSPC if full else errno.EIO, str(error)) from error
        sync(target)

    def _existing(self, folder: str, digest: str) -> Path:
        path = self._root / folder / digest
        if not path.exists():
            raise ArtifactCorrupt(f"{folder}/{digest} is missing from the artifact store.")
        return path

    @contextmanager
    def _staging(self) -> Iterator[Path]:
        aside = self._root / "staging" / uuid4().hex
        try:
            yield aside
        finally:
            shutil.rmtree(aside, ignore_errors=True)
            aside.unlink(missing_ok=True)


def digest_file(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_directory(path: Path) -> str:
    """SHA-256 over name, size and SHA-256 of each file directly inside, in the order of their names."""
    total = hashlib.sha256()
    for file in _files_of(path):
        total.update(f"{file.name} {file.stat().st_size} {digest_file(file)}\n".encode())
    return total.hexdigest()


def size_of(path: Path) -> int:
    """The bytes of the files directly inside a directory."""
    return sum(file.stat().st_size for file in _files_of(path))


def _files_of(path: Path) -> list[Path]:
    return sorted(entry for entry in path.iterdir() if entry.is_file())
