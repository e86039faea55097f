"""Others on this machine are told that somebody trains, so that their products take other cores."""

import fcntl
import logging
import os
from pathlib import Path

log = logging.getLogger(__name__)


class Presence:
    """A lock on a file of its own, held while there are jobs. It ends with the process, whatever ends it.

    Engines look for such locks before each step (vllm_plugin/threads.py).

    Args:
        file: in a folder that all of this machine know; None where nothing is computed on a CPU.
    """

    def __init__(self, file: Path | None) -> None:
        #: Of the file; open as long as the process lives.
        self._descriptor = None if file is None else _opened(file)

    def begin(self) -> None:
        """Be there. While an engine looks it has the lock, for microseconds; called again, this tries again."""
        self._lock(fcntl.LOCK_EX | fcntl.LOCK_NB)

    def end(self) -> None:
        """Be gone."""
        self._lock(fcntl.LOCK_UN)

    def _lock(self, how: int) -> None:
        if self._descriptor is None:
            return
        try:
            fcntl.flock(self._descriptor, how)
        except BlockingIOError:
            return
        except OSError as error:
            log.warning("engines are not told that training computes: %s", error)
            self._descriptor = None


def _opened(file: Path) -> int | None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        return os.open(file, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        log.warning("engines are not told that training computes: %s", error)
        return None
