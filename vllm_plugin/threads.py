"""With how many threads an engine computes: all of them, or a part while somebody else computes on the same cores.

Threads of two processes that want the same core make both wait at the end of each product, and a step has hundreds: an
engine with two threads on two cores gave one token a second beside a training process with one, where it gives 16 with
one (bench/LOG.md). Who computes holds a lock on a file of its own in a folder that all of them know. Locks end with
their process, whatever ends it.
"""

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

#: Who was seen computing so many seconds ago is thought to go on: engines rest between two steps.
RECENT = 0.25


class Threads:
    """Those of one engine.

    Args:
        folder: of the locks; this process may make it.
        name: of its own lock.
        most: threads while nobody else computes.
        few: threads while somebody does.
        use: told how many threads to use.
        clock: in seconds.

    Raises:
        OSError: it cannot have a lock there.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        *,
        most: int,
        few: int,
        use: Callable[[int], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._name = folder, name
        self._most, self._few = most, few
        self._use, self._clock = use, clock
        #: Open as long as the process lives.
        self._own = os.open(folder / name, os.O_RDWR | os.O_CREAT, 0o600)
        self._seen = -RECENT
        self._count = 0

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Inside, others see that somebody computes; the threads are chosen at its beginning."""
        self.choose()
        # Who just looks holds it, too: for microseconds, and then others do not see this one.
        self._lock(fcntl.LOCK_EX | fcntl.LOCK_NB)
        try:
            yield
        finally:
            self._lock(fcntl.LOCK_UN)

    def choose(self) -> None:
        """Take as many threads as there are cores for now."""
        if self._most > self._few and self._others_compute():
            self._seen = self._clock()
        count = self._few if self._clock() - self._seen < RECENT else self._most
        if count != self._count:
            self._count = count
            self._use(count)

    def _lock(self, how: int) -> None:
        with suppress(OSError):  # what is asked is answered, whatever has become of the folder
            fcntl.flock(self._own, how)

    def _others_compute(self) -> bool:
        try:
            return any(_held(path) for path in self._folder.iterdir() if path.name != self._name)
        except OSError:
            return False


def _held(path: Path) -> bool:
    """Whether its owner computes. Files that nobody owns any more are held by nobody."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False
