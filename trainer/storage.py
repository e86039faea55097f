"""How many bytes lie where in the home folder. Counted by a thread of its own: a walk through many files takes long."""

import os
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

from adapters.settings import LedgerSettings
from trainer.metrics import Instruments

#: Between two looks.
_PAUSE_S = 300.0


def folders(settings: LedgerSettings) -> dict[str, Path]:
    """What is counted, by what it is."""
    return {
        "files": settings.artifacts_dir / "files",
        "versions": settings.artifacts_dir / "versions",
        "uploads": settings.artifacts_dir / "parts",
        "work": settings.work_dir,
        "models": settings.home / "models",
    }


def count(folders: Mapping[str, Path], instruments: Instruments) -> None:
    """Look once. What goes away meanwhile counts nothing."""
    for kind, folder in folders.items():
        instruments.stored.labels(kind).set(size_of(folder))


def size_of(folder: Path) -> int:
    """Bytes of the files below; 0 where there is no such folder."""
    total = 0
    for directory, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.stat(os.path.join(directory, name), follow_symlinks=False).st_size  # noqa: PTH116, PTH118  half the time of Path
            except FileNotFoundError:
                continue
    return total


def keep_counting(
    settings: LedgerSettings, instruments: Instruments, stop: threading.Event
) -> Callable[[], None]:
    """What a thread is to do until it is told to stop."""

    def work() -> None:
        while True:
            count(folders(settings), instruments)
            if stop.wait(_PAUSE_S):
                return

    return work
