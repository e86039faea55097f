"""What this machine has of the bucket, as files and directories.

    <root>/files/<file id>        <root>/versions/<digest>/        <root>/staging/<random>

Only what was proven comes in, under one rename; so what is here is whole, also after a crash. When it is too much, what
was used longest ago goes. What somebody needs for longer is lent: the same bytes under a second name, a hard link. That
makes leaving them here free, so they are left; and where two processes do not see each other, removing one name never
takes the other.
"""

import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Lock
from uuid import uuid4
from weakref import WeakValueDictionary

from adapters.durable import link, remove, rename, sync

log = logging.getLogger(__name__)

#: A path that was handed out is good for that long, whatever else comes.
_GRACE_S = 600.0


class _Turn:
    """Whose turn it is to bring one thing. A class, because a lock cannot be referred to weakly."""

    def __init__(self) -> None:
        self.lock = Lock()


class Cache:
    """A folder with the latest of the bucket.

    `most_bytes` may be exceeded by what is in use, and by a sixty-fourth: looking at everything that is here takes as
    long as there is much of it, so not everything that comes in has that done.
    """

    def __init__(self, root: Path, *, most_bytes: int, grace: float = _GRACE_S) -> None:
        self._root, self._most, self._grace = root, most_bytes, grace
        self._guard = Lock()
        #: Bytes that may come in before somebody looks how much is here.
        self._unseen = 0
        self._turns: WeakValueDictionary[str, _Turn] = WeakValueDictionary()
        for folder in ("files", "versions", "staging"):
            (root / folder).mkdir(parents=True, exist_ok=True)

    def get(self, key: str, bring: Callable[[Path], None]) -> Path:
        """The path of `files/<id>` or `versions/<digest>`. `bring` is given a path to fill if it is not here.

        Those who want the same at the same time wait for one to bring it.
        """
        with self._guard:
            turn = self._turns.setdefault(key, _Turn())
        with turn.lock:
            target = self._root / key
            if not _touched(target):
                with self._staging() as aside:
                    bring(aside)
                    self._take(aside, target)
        return target

    def keep(self, key: str, source: Path) -> None:
        """Take in what was sent to the bucket from here: a second name for a file, or for each file of a directory."""
        target = self._root / key
        if _touched(target):
            return
        with self._staging() as aside:
            _double(source, aside)
            self._take(aside, target)

    def lend(self, key: str, into: Path, bring: Callable[[Path], None]) -> Path:
        """The same under a name of its own, inside of a folder that is made for it and that the caller removes."""
        target = into / key.rpartition("/")[2]
        while not target.exists():
            path = self.get(key, bring)
            into.mkdir(parents=True, exist_ok=True)
            aside = into / f".{uuid4().hex}"
            # Another process may have evicted it between the two.
            with suppress(FileNotFoundError):
                _double(path, aside)
                rename(aside, target)
        return target

    def drop(self, key: str) -> None:
        """Have it no longer. Who has it lent, keeps it."""
        aside = self._root / "staging" / uuid4().hex
        with suppress(FileNotFoundError):
            (self._root / key).rename(aside)
        remove(aside)

    def sweep(self, *, older_than: float) -> None:
        """Remove what killed processes left half-brought."""
        before = time.time() - older_than
        for left in (self._root / "staging").iterdir():
            with suppress(FileNotFoundError):
                if left.stat().st_mtime < before:
                    remove(left)

    def _take(self, aside: Path, target: Path) -> None:
        for path in [*_files(aside), *([aside] if aside.is_dir() else [])]:
            sync(path)
        more = _size(aside)
        rename(aside, target)
        sync(target.parent)
        os.utime(target)
        with self._guard:
            self._unseen -= more
            if self._unseen >= 0:
                return
        total = self._make_room()
        with self._guard:
            # Half: another process may bring as much into the same folder.
            self._unseen = max(0, self._most - total) // 2 + self._most // 64

    def _make_room(self) -> int:
        """Let go of what was used longest ago, as far as there is too much; how much is left."""
        found = sorted(self._entries())
        total = sum(size for _, size, _ in found)
        before = time.time() - self._grace
        for used_at, size, path in found:
            if total <= self._most or used_at > before:
                break
            if not _is_lent(path):
                log.info("making room in the cache: %s", path.name)
                self.drop(str(path.relative_to(self._root)))
                total -= size
        return total

    def _entries(self) -> Iterator[tuple[float, int, Path]]:
        """When each was last used, its size, and itself."""
        for folder in ("files", "versions"):
            for path in (self._root / folder).iterdir():
                with suppress(FileNotFoundError):  # gone meanwhile
                    yield path.stat().st_mtime, _size(path), path

    @contextmanager
    def _staging(self) -> Iterator[Path]:
        aside = self._root / "staging" / uuid4().hex
        try:
            yield aside
        finally:
            remove(aside)


def _touched(path: Path) -> bool:
    """Whether it is there; if so, it has just been used."""
    try:
        os.utime(path)
    except FileNotFoundError:
        return False
    return True


def _is_lent(path: Path) -> bool:
    try:
        return any(file.stat().st_nlink > 1 for file in _files(path))
    except FileNotFoundError:
        return False


def _size(path: Path) -> int:
    return sum(file.stat().st_size for file in _files(path))


def _files(path: Path) -> list[Path]:
    return list(path.iterdir()) if path.is_dir() else [path]


def _double(source: Path, target: Path) -> None:
    if source.is_dir():
        target.mkdir()
        for path in source.iterdir():
            link(path, target / path.name)
    else:
        link(source, target)
