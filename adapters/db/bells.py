"""Who commits to SQLite rings, and who waits for news hears it at once: SQLite itself tells nobody.

Each process that waits hangs a bell into a folder that they share, a named pipe (mkfifo, POSIX): it takes a byte
without making anybody wait. One that is not heard costs a little time and nothing else, since who waits also looks.
"""

import errno
import os
import select
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_MANY_BYTES = 1 << 16


class Bell:
    """One that hangs."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        # Not `select`, which takes no descriptor above 1023: a service has as many as it has connections.
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLIN)

    def wait(self, seconds: float) -> None:
        """Return when it has rung since the last time, or after so many seconds."""
        if self._poll.poll(seconds * 1000):
            os.read(self._descriptor, _MANY_BYTES)


class Bells:
    """All that hang in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @contextmanager
    def hung(self) -> Iterator[Bell]:
        """Inside the context, a bell that everybody rings. Raises OSError where the folder cannot have one."""
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        path = self._folder / f"{os.getpid()}-{uuid.uuid4().hex}"
        aside = path.with_suffix(".new")
        os.mkfifo(aside, 0o600)
        ear = os.open(aside, os.O_RDONLY | os.O_NONBLOCK)
        # With an end to write at of its own: without any, a pipe can be read at once and for ever.
        hand = os.open(aside, os.O_WRONLY | os.O_NONBLOCK)
        try:
            # Only now in sight: who finds one that nobody listens at takes it down.
            aside.rename(path)
            yield Bell(ear)
        finally:
            os.close(ear)
            os.close(hand)
            for name in (path, aside):
                name.unlink(missing_ok=True)

    def ring(self) -> None:
        """Wake whoever waits; 13 µs for one, 7 for each more. Never fails."""
        with suppress(OSError):
            for path in self._folder.iterdir():
                if not path.suffix:
                    _ring(path)


def _ring(path: Path) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
    except OSError as error:
        if error.errno == errno.ENXIO:  # whoever hung it was killed
            path.unlink(missing_ok=True)
        return
    try:
        with suppress(BlockingIOError):  # so full that it will be heard anyway
            os.write(descriptor, b"!")
    finally:
        os.close(descriptor)
