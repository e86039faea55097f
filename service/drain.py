"""`python -m service.drain`: what a container is told before it is stopped.

Service and engines of a pod are stopped in the same moment, and new requests go on arriving until every proxy has
heard of it. So the service first says that it leaves (`/readyz` is 503) and waits for that to get around; and an engine
lives on until the service has answered what was under way.

The two know of each other by files in the run folder, which they share: a mark that the service leaves, and a lock that
it holds for as long as it lives, however it ends.
"""

import argparse
import fcntl
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from adapters.errors import GraftError
from adapters.settings import LedgerSettings

_POLL_S = 0.1
#: An engine that is stopped alone (its liveness probe has failed) need not wait; the service's mark comes by then.
_NOTICE_S = 5.0


def main() -> None:
    """Parse the command line and do as it says."""
    parser = argparse.ArgumentParser(prog="python -m service.drain", description=__doc__)
    parser.add_argument(
        "--wait", type=float, default=10.0, help="of a service: seconds until all have heard of it"
    )
    parser.add_argument(
        "--engine", action="store_true", help="of an engine: wait for the service beside it to end"
    )
    arguments = parser.parse_args()
    try:
        run_dir = LedgerSettings().run_dir
    except GraftError as error:
        sys.exit(f"graft: {error}")
    if arguments.engine:
        outlast(run_dir)
    else:
        leave(run_dir, arguments.wait)


@contextmanager
def present(run_dir: Path) -> Iterator[None]:
    """Inside the context a service is there, and not about to leave."""
    run_dir.mkdir(parents=True, exist_ok=True)
    _mark(run_dir).unlink(missing_ok=True)
    lock = os.open(_lock(run_dir), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        # Shared: several services may have one run folder. Waited for by nobody but `outlast`.
        fcntl.flock(lock, fcntl.LOCK_SH)
        yield
    finally:
        os.close(lock)


def leave(run_dir: Path, wait: float) -> None:
    """Say that the service leaves, and return so many seconds later."""
    run_dir.mkdir(parents=True, exist_ok=True)
    _mark(run_dir).touch()
    time.sleep(wait)


def is_leaving(run_dir: Path) -> bool:
    """Whether the service has been told to leave."""
    return _mark(run_dir).exists()


def outlast(run_dir: Path, *, notice: float = _NOTICE_S) -> None:
    """Return once no service is there any more; after `notice` seconds where none is about to leave."""
    until = time.monotonic() + notice
    while not is_leaving(run_dir):
        if time.monotonic() > until:
            return
        time.sleep(_POLL_S)
    lock = os.open(_lock(run_dir), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
    finally:
        os.close(lock)


def _mark(run_dir: Path) -> Path:
    return run_dir / "leaving"


def _lock(run_dir: Path) -> Path:
    return run_dir / "service.lock"


if __name__ == "__main__":
    main()
