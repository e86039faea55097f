"""How much memory there is, and how much a pass takes of it."""

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch

GIB = 2**30
_PROC = Path("/proc")
_CGROUP = Path("/sys/fs/cgroup")


@dataclass(slots=True)
class Attempt:
    """A pass that may run out of memory."""

    fits: bool = True


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


class CudaMeter:
    """Of one GPU, through torch's allocator."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._before = 0

    def begin(self) -> None:
        """See Meter."""
        torch.cuda.reset_peak_memory_stats(self._device)
        self._before = torch.cuda.memory_allocated(self._device)

    def took(self) -> int:
        """See Meter."""
        return int(torch.cuda.max_memory_allocated(self._device) - self._before)

    def free(self) -> int:
        """Free on the device, and cached by torch but unused."""
        unused = torch.cuda.memory_reserved(self._device) - torch.cuda.memory_allocated(
            self._device
        )
        return int(torch.cuda.mem_get_info(self._device)[0] + unused)

    def release(self) -> None:
        """See Meter."""
        torch.cuda.empty_cache()


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


def meter_for(device: torch.device) -> Meter:
    """The one that fits."""
    return CudaMeter(device) if device.type == "cuda" else ProcMeter()


@contextmanager
def memory_may_run_out() -> Iterator[Attempt]:
    """The one door at which torch's ways to say so become ours. Swallows the error; ask `fits` afterwards.

    Not an exception of ours, since that would be chained to torch's, whose traceback keeps the failed pass's tensors
    alive for as long as it is being handled.
    """
    attempt = Attempt()
    try:
        yield attempt
    except RuntimeError as error:  # torch.OutOfMemoryError is one
        if not isinstance(error, torch.OutOfMemoryError) and "DefaultCPUAllocator" not in str(
            error
        ):
            raise
        attempt.fits = False


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
