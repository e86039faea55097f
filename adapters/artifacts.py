"""Bytes that must not be lost: uploaded files by their id, adapter directories by their SHA-256.

    <root>/files/<file id>                one uploaded file
    <root>/versions/<digest>/<name>…      one adapter directory
    <root>/staging/<random>…              what is being written

Written aside, fsynced, renamed: whatever lies under its final name is whole. Publishing the same bytes twice is a
no-op. Files are not shared by digest: whoever deletes one must not have to know who else has just uploaded the same.
"""

import errno
import hashlib
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol
from uuid import uuid4

import obstore
import obstore.exceptions
from obstore.store import LocalStore

from adapters.durable import move, rename, sync, write_text
from adapters.errors import ArtifactCorrupt

_KINDS: dict[str, Literal["file", "version"]] = {"files": "file", "versions": "version"}


@dataclass(frozen=True, slots=True)
class Stored:
    """A file, by its id, or a version, by its digest."""

    kind: Literal["file", "version"]
    name: str
    #: When it was last put here; Unix seconds.
    changed_at: float


class Artifacts(Protocol):
    """Where files and versions are kept. Paths handed out are local and whole.

    Where the bytes themselves lie elsewhere, a path is good for some minutes. Who needs it for longer has it lent.

    Every method raises StoreUnavailable where bytes must travel and cannot; deletions leave it to a later sweep.
    """

    def put_file(self, source: Path, file_id: str) -> None:
        """Keep a copy of a file's bytes under its id."""

    def take_file(self, source: Path, file_id: str) -> None:
        """Keep a file's bytes under its id. They are moved: `source` may be gone afterwards."""

    def file(self, file_id: str, digest: str) -> Path:
        """A local path to the file's bytes, of that SHA-256. Raises ArtifactCorrupt if they are gone."""

    def lend_file(self, file_id: str, digest: str, into: Path) -> Path:
        """As `file`, and it stays until the caller removes the folder `into`, in which it may lie."""

    def delete_file(self, file_id: str) -> None:
        """Forget the file, if it is there."""

    def put_version(self, source: Path) -> str:
        """Keep the files directly inside a directory and return the digest of their names and bytes.

        Nobody writes into those files any more: the store may keep them under a second name instead of a copy.
        """

    def version(self, digest: str) -> Path:
        """A local directory with the version's files. Raises ArtifactCorrupt if it is gone."""

    def lend_version(self, digest: str, into: Path) -> Path:
        """As `version`, and it stays until the caller removes the folder `into`, in which it may lie."""

    def delete_version(self, digest: str) -> None:
        """Forget the version of that digest, if it is there."""

    def sweep(self, *, older_than: float) -> None:
        """Remove what killed processes left half-written, once it is that many seconds old."""

    def stored(self) -> Iterator[Stored]:
        """Everything that is kept here."""

    def belongs_to(self, ledger_id: str) -> bool:
        """Whether what is kept here is that ledger's. The first that asks is told yes, and every other one no."""


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

    def file(self, file_id: str, digest: str) -> Path:  # noqa: ARG002  nothing travels that could go bad
        return self._existing("files", file_id)

    def lend_file(self, file_id: str, digest: str, into: Path) -> Path:  # noqa: ARG002  it stays where it is
        return self.file(file_id, digest)

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
                rename(aside, target)
                sync(target.parent)
        os.utime(target)  # it is wanted again: no sweep takes it for forgotten
        return digest

    def version(self, digest: str) -> Path:
        return self._existing("versions", digest)

    def lend_version(self, digest: str, into: Path) -> Path:  # noqa: ARG002  it stays where it is
        return self.version(digest)

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

    def stored(self) -> Iterator[Stored]:
        for folder, kind in _KINDS.items():
            for entry in (self._root / folder).iterdir():
                with suppress(FileNotFoundError):  # deleted meanwhile
                    yield Stored(kind, entry.name, entry.stat().st_mtime)

    def belongs_to(self, ledger_id: str) -> bool:
        mark = self._root / "ledger"
        if not mark.exists():
            write_text(mark, ledger_id)
        return mark.read_text() == ledger_id

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
    return hashlib.sha256(index_of(path)).hexdigest()


@dataclass(frozen=True, slots=True)
class Indexed:
    """One file of a directory."""

    name: str
    bytes: int
    #: Of its bytes, in hex.
    sha256: str


def index_of(path: Path) -> bytes:
    """A line for each file directly inside. Its SHA-256 is the directory's digest, so it proves itself."""
    lines = (f"{file.name} {file.stat().st_size} {digest_file(file)}\n" for file in _files_of(path))
    return "".join(lines).encode()


def read_index(index: bytes) -> list[Indexed]:
    """The inverse of `index_of`. Raises ValueError where it is none."""
    entries = [line.rsplit(" ", 2) for line in index.decode().splitlines()]
    return [Indexed(name, int(size), sha256) for name, size, sha256 in entries]


def size_of(path: Path) -> int:
    """The bytes of the files directly inside a directory."""
    return sum(file.stat().st_size for file in _files_of(path))


def _files_of(path: Path) -> list[Path]:
    return sorted(entry for entry in path.iterdir() if entry.is_file())
