"""Whose turn it is: the one definition of the order in which waiting jobs are taken up. Nothing here knows SQL.

Jobs of one tenant and one priority are a lane, and within a lane the oldest comes first. Between lanes, in this order:

1. Who has fewer jobs running than a tenant may have while others wait (`queue.max_running`, off by default).
2. The priority. A lane of which nobody has been taken for `queue.age_seconds` while its first waited counts as one
   priority higher, as two after twice that; so nobody waits for ever. A job that waits for others of its own lane does
   not age: whoever brings a hundred jobs does not get past others with them by waiting.
3. The smaller share: what the tenant has used of the devices lately, divided by its weight.
4. Who came first.
"""

from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush
from typing import TypeAlias

from adapters.records import SUSPECT_LOSSES, Priority
from adapters.settings import QueueSettings

#: Device-seconds that a running job counts beside what it has used: it will use more, and jobs that are taken up at one
#: moment must not all be one tenant's. What is used over the half-life outweighs it.
_ADVANCE_S = 20.0

Lane: TypeAlias = tuple[str, Priority]
#: Smaller comes first: above the limit, minus the priority, share, and then the age.
_Urgency: TypeAlias = tuple[bool, int, float, float, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """A job that could be taken up, as far as the order is concerned."""

    id: str
    tenant: str
    priority: Priority
    created_at: float
    losses: int = 0

    @property
    def suspect(self) -> bool:
        """Whether it must be alone."""
        return self.losses >= SUSPECT_LOSSES


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How tenants stand, at one moment."""

    now: float
    #: Device-seconds of late, by tenant.
    used: Mapping[str, float] = field(default_factory=dict)
    #: Jobs in training, by tenant.
    running: Mapping[str, int] = field(default_factory=dict)
    #: When one of a lane was taken up last.
    served_at: Mapping[Lane, float] = field(default_factory=dict)


def in_turn(
    waiting: Iterable[Waiting], standing: Standing, rules: QueueSettings
) -> Iterator[Waiting]:
    """The jobs in the order in which they would be taken up if there were room for all of them now."""
    tenants: dict[str, _Tenant] = {}
    for job in sorted(waiting, key=lambda one: (one.created_at, one.id)):
        if job.tenant not in tenants:
            tenants[job.tenant] = _Tenant(job.tenant, standing, rules)
        tenants[job.tenant].lanes[job.priority].append(job)
    heap = [(tenant.urgency(), name) for name, tenant in tenants.items()]
    heapify(heap)
    while heap:
        _, name = heappop(heap)
        yield tenants[name].take()
        if tenants[name].lanes:
            heappush(heap, (tenants[name].urgency(), name))


class _Tenant:
    """What a tenant has waiting, and how it stands; taking a job of it changes that."""

    def __init__(self, name: str, standing: Standing, rules: QueueSettings) -> None:
        self.lanes: dict[Priority, deque[Waiting]] = defaultdict(deque)
        self._now, self._rules = standing.now, rules
        self._weight = rules.weight_of(name)
        self._used = standing.used.get(name, 0.0)
        self._running = standing.running.get(name, 0)
        self._served = {
            priority: standing.served_at.get((name, priority), 0.0) for priority in Priority
        }

    def urgency(self) -> _Urgency:
        """That of its most urgent lane."""
        return min(map(self._urgency, self.lanes))

    def take(self) -> Waiting:
        """Take up the first of its most urgent lane."""
        priority = min(self.lanes, key=self._urgency)
        job = self.lanes[priority].popleft()
        if not self.lanes[priority]:
            del self.lanes[priority]
        self._running += 1
        self._served[priority] = self._now
        return job

    def _urgency(self, priority: Priority) -> _Urgency:
        first = self.lanes[priority][0]
        above = 0 < self._rules.max_running <= self._running
        waited = self._now - max(first.created_at, self._served[priority])
        aged = priority.rank + int(max(0.0, waited) // self._rules.age_seconds)
        share = (self._used + _ADVANCE_S * self._running) / self._weight
        return above, -min(aged, Priority.HIGH.rank), share, first.created_at, first.id


def starts(
    count: int, *, ends: Sequence[float | None], slots: int | None, lasts: float | None
) -> list[float | None]:
    """Seconds until each of the first `count` in the order is taken up; None where nobody can tell.

    `ends` are the seconds until those that run end, None where one does not say; `slots` how many run at a time, None
    where no trainer has said; `lasts` how long a job takes, None where none has ended yet.
    """
    free = max(0, slots - len(ends)) if slots is not None else 0
    times = [0.0] * free + [end for end in ends if end is not None]
    heapify(times)
    found: list[float | None] = []
    while len(found) < count and times:
        start = heappop(times)
        found.append(start)
        if lasts is not None:
            heappush(times, start + lasts)
    return found + [None] * (count - len(found))
