"""Files and versions in a bucket. What is said to be kept is in the bucket, whole, before the ledger names it."""

import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from hashlib import sha256
from pathlib import Path

from adapters.artifacts import Stored, index_of
from adapters.bucket.cache import Cache
from adapters.bucket.client import Absent, Bucket
from adapters.bucket.directories import INDEX, delete_directory, fetch_directory, put_directory
from adapters.errors import ArtifactCorrupt, StoreUnavailable

#: An index younger than this is not written again to say that its version is wanted.
_FRESH_S = 3600.0
_OWNER = "ledger"


class BucketArtifacts:
    """Artifacts in a bucket, and what of it this machine needs in a cache."""

    def __init__(self, bucket: Bucket, cache: Cache) -> None:
        self._bucket, self._cache = bucket, cache

    def put_file(self, source: Path, file_id: str) -> None:
        self._bucket.put(f"files/{file_id}", source)

    def take_file(self, source: Path, file_id: str) -> None:
        self._bucket.put(f"files/{file_id}", source)
        self._cache.keep(f"files/{file_id}", source)
        source.unlink()

    def file(self, file_id: str, digest: str) -> Path:
        return self._cache.get(f"files/{file_id}", partial(self._bring_file, file_id, digest))

    def lend_file(self, file_id: str, digest: str, into: Path) -> Path:
        bring = partial(self._bring_file, file_id, digest)
        return self._cache.lend(f"files/{file_id}", into, bring)

    def delete_file(self, file_id: str) -> None:
        self._bucket.delete([f"files/{file_id}"])
        self._cache.drop(f"files/{file_id}")

    def put_version(self, source: Path) -> str:
        index = index_of(source)
        digest = sha256(index).hexdigest()
        key = f"versions/{digest}"
        known = self._bucket.find(key + INDEX)
        if known is None:
            put_directory(self._bucket, key, source, index)
        elif time.time() - known.changed_at > _FRESH_S:
            # It is wanted again: no sweep takes it for forgotten.
            self._bucket.put(key + INDEX, index, over=True)
        self._cache.keep(key, source)
        return digest

    def version(self, digest: str) -> Path:
        return self._cache.get(f"versions/{digest}", partial(self._bring_version, digest))

    def lend_version(self, digest: str, into: Path) -> Path:
        bring = partial(self._bring_version, digest)
        return self._cache.lend(f"versions/{digest}", into, bring)

    def delete_version(self, digest: str) -> None:
        with suppress(StoreUnavailable):  # a sweep will, as with everything that is deleted
            delete_directory(self._bucket, f"versions/{digest}")
        self._cache.drop(f"versions/{digest}")

    def sweep(self, *, older_than: float) -> None:
        self._cache.sweep(older_than=older_than)

    def stored(self) -> Iterator[Stored]:
        for entry in self._bucket.entries("files/"):
            yield Stored("file", entry.key.removeprefix("files/"), entry.changed_at)
        yield from self._versions()

    def belongs_to(self, ledger_id: str) -> bool:
        self._bucket.put(_OWNER, ledger_id.encode())
        return self._bucket.read(_OWNER) == ledger_id.encode()

    def _versions(self) -> Iterator[Stored]:
        """Of each the time of its latest object. `<digest>.index` comes before `<digest>/…`."""
        latest: Stored | None = None
        for entry in self._bucket.entries("versions/"):
            digest = entry.key.removeprefix("versions/").partition("/")[0].removesuffix(INDEX)
            if latest is not None and latest.name == digest:
                latest = Stored("version", digest, max(latest.changed_at, entry.changed_at))
                continue
            if latest is not None:
                yield latest
            latest = Stored("version", digest, entry.changed_at)
        if latest is not None:
            yield latest

    def _bring_file(self, file_id: str, digest: str, target: Path) -> None:
        key = f"files/{file_id}"
        try:
            self._bucket.fetch(key, target, digest=digest)
        except Absent as error:
            raise _missing(key) from error

    def _bring_version(self, digest: str, target: Path) -> None:
        key = f"versions/{digest}"
        try:
            fetch_directory(self._bucket, key, target, digest)
        except Absent as error:
            raise _missing(key) from error


def _missing(key: str) -> ArtifactCorrupt:
    return ArtifactCorrupt(f"{key} is missing from the artifact store.")
