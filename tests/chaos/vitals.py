"""How a process is doing, and whether it grows: what the kernel says of it, and a line through that."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import linear_regression, median

_MB = 1 << 20
#: Bytes a second. What a soak of an hour may find is a megabyte an hour. A short one cannot tell that from the
#: allocator's breathing; its bound is what a leak of a kilobyte with each of a hundred requests a second comes to.
LONG_BOUND, SHORT_BOUND = _MB / 3600, 100 * 1024.0


@dataclass(frozen=True)
class Vitals:
    """Of one process at one moment. `at` in seconds, memory in bytes."""

    at: float
    memory: int
    files: int
    threads: int
    #: asyncio's; 0 of a process that has none.
    tasks: int = 0


def vitals(pid: int, at: float, tasks: int = 0) -> Vitals:
    """Of a process now."""
    folder = Path("/proc") / str(pid)
    told = dict(line.split(":", 1) for line in (folder / "status").read_text().splitlines())
    return Vitals(
        at=at,
        memory=int(told["VmRSS"].split()[0]) * 1024,
        files=len(list((folder / "fd").iterdir())),
        threads=int(told["Threads"]),
        tasks=tasks,
    )


def growth(course: Sequence[Vitals]) -> float:
    """Bytes a second, by least squares."""
    return linear_regression([one.at for one in course], [one.memory for one in course]).slope


def tenths(course: Sequence[Vitals]) -> list[float]:
    """The median of its memory in each tenth of the time, in MB."""
    bounds = [len(course) * number // 10 for number in range(11)]
    return [
        round(median(one.memory for one in course[begin:end]) / _MB, 2)
        for begin, end in pairwise(bounds)
        if begin < end
    ]


def rises(course: Sequence[Vitals]) -> dict[str, float]:
    """How many more files, threads and tasks there were in the last quarter of the time than in the first."""
    quarter = max(1, len(course) // 4)
    first, last = course[:quarter], course[-quarter:]
    return {
        name: median(getattr(one, name) for one in last)
        - median(getattr(one, name) for one in first)
        for name in ("files", "threads", "tasks")
    }
