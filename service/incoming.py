"""Where bodies with files are read to: a folder of this process, beside those of other services in the same home."""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4


@contextmanager
def incoming_folder(root: Path) -> Iterator[Path]:
    """A folder that is removed on leaving, with those that killed services have left.

    Their clients have been told nothing, so nothing is lost. Whoever lives holds a lock on its own.
    """
    root.mkdir(parents=True, exist_ok=True)
    mine = root / uuid4().hex
    # Made under the lock of the root, so that nobody who clears away sees it before it is held.
    with _held(root, wait=True):
        for left in root.iterdir():
            # One that vanishes meanwhile is that of a service that ends.
            with suppress(FileNotFoundError), _held(left, wait=False) as free:
                if free:
                    _remove(left)
        mine.mkdir()
        held = os.open(mine, os.O_RDONLY)
        fcntl.flock(held, fcntl.LOCK_EX)
    try:
        yield mine
    finally:
        shutil.rmtree(mine, ignore_errors=True)
        os.close(held)


@contextmanager
def _held(path: Path, *, wait: bool) -> Iterator[bool]:
    """Whether the lock on a file or folder is ours; it is given back on leaving."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        yield False
    else:
        yield True
    finally:
        os.close(descriptor)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
