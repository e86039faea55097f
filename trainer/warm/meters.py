"""How much memory there is, and how much a pass takes of it. Without torch; that of GPUs is in memory.py."""

import re
from contextlib import suppress
from pathlib import Path
from typing import Protocol

GIB = 2**30
_PROC = Path("/proc")
_CGROUP = Path("/sys/fs/cgroup")


class Meter(Protocol):
    """Watches the memory that passes allocate from."""

    def begin(self) -> None:
        """A pass is about to run."""

    def took(self) -> int | None:
        """Bytes that it held at its peak, above what was held before; None where nobody knows."""

    def free(self) -> int | None:
        """Bytes that a pass could take now; None where nobody knows."""

    def release(self) -> None:
        """Give back what is cached, after a pass that failed."""


class Blind:
    """Knows nothing, so that the budget stays what it was set to until a pass fails."""

    def begin(self) -> None:
        """See Meter."""

    def took(self) -> None:
        """See Meter."""

    def free(self) -> None:
        """See Meter."""

    def release(self) -> None:
        """See Meter."""


class ProcMeter:
    """Of this process on Linux: the peak of its resident memory, and what the machine or the container has left."""

    def __init__(self) -> None:
        self._before = 0

    def begin(self) -> None:
        """Writing 5 resets the peak (proc(5), clear_refs). Costs microseconds."""
        with suppress(OSError):
            (_PROC / "self/clear_refs").write_text("5")
        self._before = _kib(_PROC / "self/status", "VmRSS") or 0

    def took(self) -> int | None:
        """See Meter."""
        peak = _kib(_PROC / "self/status", "VmHWM")
        return None if peak is None else max(0, peak - self._before)

    def free(self) -> int | None:
        """See Meter."""
        available = _kib(_PROC / "meminfo", "MemAvailable")
        limit, used = _number(_CGROUP / "memory.max"), _number(_CGROUP / "memory.current")
        if limit is None or used is None:
            return available
        return limit - used if available is None else min(available, limit - used)

    def release(self) -> None:
        """Malloc gives large blocks back by itself."""


def _kib(path: Path, key: str) -> int | None:
    """A line `key:   123 kB`, in bytes."""
    try:
        found = re.search(rf"^{key}:\s+(\d+) kB$", path.read_text(), re.MULTILINE)
    except OSError:
        return None
    return None if found is None else int(found[1]) * 1024


def _number(path: Path) -> int | None:
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdecimal() else None
