"""What there is to compute on: cores that this process may use, whether their memory is one, and who else computes."""

import math
import os
import socket
from collections.abc import Collection, Iterator
from pathlib import Path

_ROOT = Path("/")


def cores(allowed: Collection[int] | None = None, root: Path = _ROOT) -> int:
    """How many threads may compute at once: one for each core, and no more than the container's share of their time.

    Two hardware threads of one core count once: a product keeps all of a core busy. A thread more than there is time
    for makes all of them wait at the end of each product. Where the machine does not say, elsewhere than on Linux, it
    is what Python knows.

    Args:
        allowed: numbers of the CPUs that this process may run on, unless those that the kernel tells.
        root: where `sys` and `proc` are, for tests.
    """
    physical = {_siblings(root, cpu) for cpu in _allowed(allowed)}
    return max(1, math.floor(min((len(physical), *_shares(root)))))


def training_share(threads: int) -> int:
    """Of so many threads, those of a training process while somebody else computes; an engine takes the others."""
    return max(1, threads // 2)


def memory_is_one(allowed: Collection[int] | None = None, root: Path = _ROOT) -> bool:
    """Whether all these cores reach all of their memory alike, in one NUMA node. Arguments as those of `cores`."""
    nodes = {node.name for cpu in _allowed(allowed) for node in _of(root, cpu).glob("node[0-9]*")}
    return len(nodes) <= 1


def computing_dir(run_dir: Path) -> Path:
    """Where each process that computes on these cores has a lock.

    Containers have cores, or a quota, each for itself, also those of a pod, which share a name and folders: it is a
    folder for those that see each other's processes (pid_namespaces(7)).
    """
    try:
        neighbours = Path("/proc/self/ns/pid").stat().st_ino
    except OSError:
        neighbours = 0
    return run_dir / "computing" / f"{socket.gethostname()}-{neighbours}"


def _allowed(allowed: Collection[int] | None) -> Collection[int]:
    if allowed is not None:
        return allowed
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return range(os.cpu_count() or 1)


def _of(root: Path, cpu: int) -> Path:
    return root / "sys" / "devices" / "system" / "cpu" / f"cpu{cpu}"


def _siblings(root: Path, cpu: int) -> str:
    """The same for all hardware threads of a core, and for no others."""
    try:
        return (_of(root, cpu) / "topology" / "thread_siblings_list").read_text()
    except OSError:
        return str(cpu)


def _shares(root: Path) -> Iterator[float]:
    """How many cores' time the control groups allow that this process is in, its own and those above (cgroups(7)).

    A container may see its own group at the top while it is told the path from the host's: what is not there is passed
    over.
    """
    try:
        memberships = (root / "proc" / "self" / "cgroup").read_text().splitlines()
    except OSError:
        return
    mounted = root / "sys" / "fs" / "cgroup"
    for membership in memberships:
        _, controllers, path = membership.split(":", 2)
        if controllers == "":
            yield from map(_share_v2, _upwards(mounted, path))
        elif "cpu" in controllers.split(","):
            yield from map(_share_v1, _upwards(mounted / "cpu", path))


def _upwards(mounted: Path, path: str) -> Iterator[Path]:
    group = mounted / path.lstrip("/")
    yield group
    while group != mounted:
        group = group.parent
        yield group


def _share_v2(group: Path) -> float:
    return _share(*_numbers(group / "cpu.max"))


def _share_v1(group: Path) -> float:
    return _share(
        *_numbers(group / "cpu.cfs_quota_us"),
        *_numbers(group / "cpu.cfs_period_us"),
    )


def _share(quota: float = math.inf, period: float = 1, *_: float) -> float:
    """Infinite where there is none: version 1 writes -1 then, and version 2 a word."""
    return quota / period if quota > 0 and period > 0 else math.inf


def _numbers(file: Path) -> list[float]:
    try:
        return [math.inf if word == "max" else float(word) for word in file.read_text().split()]
    except (OSError, ValueError):
        return []
