"""A bucket, and the one door through which errors of the object store come.

What goes wrong on the way is tried again for a few seconds, at growing intervals with jitter. After that everybody is
told at once, for a moment, that the store does not answer: a hundred callers who each wait for the same outage would
take the threads of those who need no bucket.
"""

import itertools
import logging
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import S3Store

from adapters.bucket.watch import Operation, Outcome, Unwatched, Watch
from adapters.errors import ArtifactCorrupt, InvalidValue, StoreUnavailable
from adapters.settings import StoreSettings

log = logging.getLogger(__name__)

T = TypeVar("T")

#: What travels in one request; larger objects go and come in pieces of that size.
PIECE = 8 << 20
_AT_ONCE = 4
_PAGE = 1000
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.05, 1.0
#: How long everybody is refused after somebody has waited in vain.
_DOWN_S = 1.0
_COMPLAIN_S = 10.0
#: How often bytes are fetched anew that are not what they should be.
_FETCHES = 4


class Absent(Exception):
    """There is no such object."""


class _Torn(Exception):
    """What has arrived is not what was sent."""


@dataclass(frozen=True, slots=True)
class Entry:
    """An object in a listing. `key` is without the prefix, `changed_at` in Unix seconds."""

    key: str
    bytes: int
    changed_at: float


class Bucket:
    """Objects by key. Making one opens no connection.

    Every method raises StoreUnavailable where the store does not answer for `patience` seconds.
    """

    def __init__(
        self, settings: StoreSettings, *, patience: float = 5.0, watch: Watch | None = None
    ) -> None:
        self._store = _connect(settings)
        self._watch: Watch = watch or Unwatched()
        self._patience = patience
        self._refuse_until = 0.0
        self._complained = -_COMPLAIN_S

    def put(self, key: str, source: Path | bytes, *, over: bool = False) -> None:
        """Store an object. One that is there stays as it is, unless told to write `over` it.

        It is there in whole or not at all, and there when this returns.
        """
        size = len(source) if isinstance(source, bytes) else source.stat().st_size
        if size > PIECE and not over:
            # Pieces cannot be sent on condition. What is there has the same bytes: keys are digests, or nobody else's.
            over = self.find(key) is None
            if not over:
                return

        def attempt() -> None:
            with suppress(AlreadyExistsError):
                obstore.put(
                    self._store,
                    key,
                    source,
                    mode="overwrite" if over else "create",
                    use_multipart=size > PIECE,
                    chunk_size=PIECE,
                    max_concurrency=_AT_ONCE,
                )
            kept = obstore.head(self._store, key)["size"]
            if kept != size:
                raise _Torn(f"{kept} bytes of {size} have arrived")

        self._insist("put", f"storing {key}", attempt)
        self._watch.moved("put", size)

    def find(self, key: str) -> Entry | None:
        """The object, if it is there."""

        def attempt() -> Entry | None:
            try:
                meta = obstore.head(self._store, key)
            except FileNotFoundError:
                return None
            return Entry(key, meta["size"], meta["last_modified"].timestamp())

        return self._insist("head", f"looking for {key}", attempt)

    def read(self, key: str) -> bytes:
        """A small object's bytes. Raises Absent."""

        def attempt() -> bytes:
            try:
                got = obstore.get(self._store, key)
                body = bytes(got.bytes())
            except FileNotFoundError as error:
                raise Absent(key) from error
            if len(body) != got.meta["size"]:
                raise _Torn(f"{len(body)} bytes of {got.meta['size']} have arrived")
            return body

        body = self._insist("get", f"reading {key}", attempt)
        self._watch.moved("get", len(body))
        return body

    def proven(self, key: str, digest: str) -> bytes:
        """A small object's bytes, of that SHA-256. Raises Absent, ArtifactCorrupt."""
        return self._agreed(key, lambda: (body := self.read(key), sha256(body).hexdigest()), digest)

    def fetch(self, key: str, target: Path, *, digest: str, size: int | None = None) -> None:
        """Bring an object of that SHA-256, and of that size where it is known, to the disk.

        Raises:
            Absent: it is not there.
            ArtifactCorrupt: it is something else, however often it is brought.
        """

        def bring() -> tuple[None, str]:
            # Asked anew each time: what was said of its size may be what was wrong.
            return None, self._fetch(key, target, self._size(key) if size is None else size)

        self._agreed(key, bring, digest)

    def entries(self, prefix: str) -> Iterator[Entry]:
        """All objects whose keys begin with a folder's name, which ends in a slash; a page at a time."""
        after: str | None = None
        while page := self._insist("list", f"listing {prefix}", partial(self._page, prefix, after)):
            yield from page
            after = page[-1].key

    def delete(self, keys: Sequence[str]) -> None:
        """Remove objects, in that order; absent ones are no error.

        What cannot be removed now is left to a later sweep: whoever deletes has been told so by the database already.
        """
        try:
            for key in keys:
                self._insist("delete", f"deleting {key}", partial(_delete, self._store, key))
        except StoreUnavailable:
            log.warning("could not delete %d objects; a sweep will", len(keys))

    def _page(self, prefix: str, after: str | None) -> list[Entry]:
        pages = obstore.list(self._store, prefix=prefix, offset=after, chunk_size=_PAGE)
        return [
            Entry(meta["path"], meta["size"], meta["last_modified"].timestamp())
            for meta in next(iter(pages), [])
        ]

    def _size(self, key: str) -> int:
        found = self.find(key)
        if found is None:
            raise Absent(key)
        return found.bytes

    def _fetch(self, key: str, target: Path, size: int) -> str:
        """Piece by piece, each of which is tried again by itself. Returns the SHA-256 of what came."""
        total = sha256()
        with target.open("wb") as file:
            for start in range(0, size, PIECE):
                piece = self._piece(key, start, min(PIECE, size - start))
                total.update(piece)
                file.write(piece)
        return total.hexdigest()

    def _piece(self, key: str, start: int, length: int) -> bytes:
        def attempt() -> bytes:
            try:
                piece = bytes(obstore.get_range(self._store, key, start=start, length=length))
            except FileNotFoundError as error:
                raise Absent(key) from error
            if len(piece) != length:
                raise _Torn(f"{len(piece)} bytes of {length} have arrived")
            return piece

        piece = self._insist("get", f"fetching {key}", attempt)
        self._watch.moved("get", length)
        return piece

    def _agreed(self, key: str, bring: Callable[[], tuple[T, str]], digest: str) -> T:
        """What is brought and has that digest; brought anew where it has another."""
        for attempt in range(_FETCHES):
            brought, found = bring()
            if found == digest:
                return brought
            log.warning("%s has arrived with the digest %s, not %s", key, found, digest)
            _pause(attempt)
        raise ArtifactCorrupt(f"{key} in the bucket is not what was stored there.")

    def _insist(self, operation: Operation, doing: str, attempt: Callable[[], T]) -> T:
        """Try until it goes well or patience is over."""
        began = time.monotonic()
        if began < self._refuse_until:
            raise _unavailable()
        for number in itertools.count():
            try:
                return self._try(operation, attempt)
            except (BaseError, OSError, TimeoutError, _Torn) as error:
                if time.monotonic() - began >= self._patience:
                    self._complain(doing, error)
                    self._refuse_until = time.monotonic() + _DOWN_S
                    raise _unavailable() from error
            _pause(number)
        raise AssertionError("there is always a next try")

    def _try(self, operation: Operation, attempt: Callable[[], T]) -> T:
        began = time.monotonic()
        outcome: Outcome = "ok"
        try:
            return attempt()
        except Absent:
            raise
        except Exception:
            outcome = "error"
            raise
        finally:
            self._watch.tried(operation, outcome, time.monotonic() - began)

    def _complain(self, doing: str, error: Exception) -> None:
        # For the log only: it names hosts and keys, which are nothing to those who ask.
        now = time.monotonic()
        if now - self._complained >= _COMPLAIN_S:
            self._complained = now
            log.warning("the bucket does not answer, %s: %.300s", doing, _first_line(error))


def _connect(settings: StoreSettings) -> S3Store:
    url = urlsplit(settings.url)
    if url.scheme != "s3" or not url.netloc or url.query or url.username:
        raise InvalidValue(
            "ledger.store_url must be s3://bucket or s3://bucket/prefix.", param="store_url"
        )
    # The types of these exist for type checkers only.
    config: Any = {
        "bucket": url.netloc,
        "region": settings.region,
        "virtual_hosted_style_request": False,
    }
    if settings.endpoint:
        config["endpoint"] = settings.endpoint
    if settings.access_key_id:
        config["access_key_id"] = settings.access_key_id
        config["secret_access_key"] = settings.secret_access_key.get_secret_value()
        if token := settings.session_token.get_secret_value():
            config["session_token"] = token
    return S3Store(
        prefix=url.path.strip("/") or None,
        config=config,
        client_options={
            "allow_http": settings.endpoint.startswith("http://"),
            "connect_timeout": timedelta(seconds=3),
            "read_timeout": timedelta(seconds=15),
            "timeout": timedelta(seconds=60),
        },
        # Single pieces of a large upload are worth a second try; everything else is tried again above.
        retry_config={"max_retries": 2, "retry_timeout": timedelta(seconds=3)},
    )


def _delete(store: S3Store, key: str) -> None:
    with suppress(FileNotFoundError):
        obstore.delete(store, key)


def _pause(number: int) -> None:
    longest = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2 ** min(number, 10))
    time.sleep(random.uniform(longest / 2, longest))  # noqa: S311  who waits for how long is no secret


def _unavailable() -> StoreUnavailable:
    return StoreUnavailable(
        "The artifact store does not answer. Try again in a moment.", retry_after=5
    )


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
