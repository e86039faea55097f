"""Who goes next: round robin over tenants, and over the adapters of each. No clock of its own, no event loop.

A **line** is what one tenant wants of one adapter. Lines that may go stand in the round. Those that may not stand
aside, so that nobody looks at them again and again, until the reason is gone:

* *Over its share*: the adapter has as many requests running as `share` allows. It may go on only where nobody else
  wants the place: the limit costs nothing while there is no competition.
* *Away*: one request of the adapter has lent its place until the adapter is loaded; the others would only do the same.
* *Without a seat*: at most `seats` different adapters run at a time. vLLM batches no more than that, and those that
  it skips may wait for ever behind ones that are always there. An adapter that has sat for `TENURE_S` while others
  wait takes no new requests until they have had a seat; what it is running goes on.

Every operation costs the same, however many wait: a line is set aside at most once for each time that it was put into
the round, and each of those was paid for by a request that came or ended.
"""

import math
from collections import OrderedDict
from dataclasses import dataclass, field

#: How long an adapter may take new requests while others wait for its seat. Long enough to fill a batch.
TENURE_S = 1.0


@dataclass(slots=True, eq=False)
class Ticket:
    """One request: in a line, then running, perhaps aside for a while."""

    tenant: str
    #: What the engine calls it.
    adapter: str
    #: The base model needs none.
    needs_seat: bool


@dataclass(slots=True, eq=False)
class _Line:
    tenant: str
    adapter: str
    tickets: "OrderedDict[Ticket, None]" = field(default_factory=OrderedDict)


class _Round:
    """Lines taken in turn: tenant after tenant, and within a tenant adapter after adapter."""

    def __init__(self) -> None:
        self._tenants: OrderedDict[str, OrderedDict[str, _Line]] = OrderedDict()

    def __bool__(self) -> bool:
        return bool(self._tenants)

    def add(self, line: _Line) -> None:
        self._tenants.setdefault(line.tenant, OrderedDict())[line.adapter] = line

    def discard(self, line: _Line) -> None:
        lines = self._tenants.get(line.tenant)
        if lines is not None and lines.pop(line.adapter, None) is not None and not lines:
            del self._tenants[line.tenant]

    def turn(self) -> _Line:
        """The line whose turn it is; next time it is another's, if there is one."""
        tenant, lines = next(iter(self._tenants.items()))
        adapter, line = next(iter(lines.items()))
        self._tenants.move_to_end(tenant)
        lines.move_to_end(adapter)
        return line


class _Aside:
    """Lines that are not in the round, by adapter; the adapter that came first is first."""

    def __init__(self) -> None:
        self._adapters: OrderedDict[str, OrderedDict[str, _Line]] = OrderedDict()

    def __bool__(self) -> bool:
        return bool(self._adapters)

    def __len__(self) -> int:
        return len(self._adapters)

    def __contains__(self, adapter: str) -> bool:
        return adapter in self._adapters

    @property
    def first(self) -> str:
        """The adapter that came first."""
        return next(iter(self._adapters))

    def add(self, line: _Line) -> None:
        self._adapters.setdefault(line.adapter, OrderedDict())[line.tenant] = line

    def discard(self, line: _Line) -> None:
        lines = self._adapters.get(line.adapter)
        if lines is not None and lines.pop(line.tenant, None) is not None and not lines:
            del self._adapters[line.adapter]

    def one_of(self, adapter: str) -> _Line | None:
        """The first line of an adapter, which stays."""
        lines = self._adapters.get(adapter)
        return next(iter(lines.values())) if lines else None

    def take(self, adapter: str) -> list[_Line]:
        """All lines of an adapter, which are here no more."""
        return list(self._adapters.pop(adapter, {}).values())


class FairQueue:
    """Tickets that wait and tickets that run. `next` says who may start; whoever calls it starts that one."""

    def __init__(self, *, places: int, share: int, seats: int) -> None:
        self._free = places
        self._share = share
        self._seats = seats
        self._lines: dict[tuple[str, str], _Line] = {}
        self._waiting: dict[str, int] = {}
        self._running: dict[str, int] = {}
        #: How many of an adapter have lent their places.
        self._lent: dict[str, int] = {}
        #: Since when an adapter sits. One that was given a seat and has not started yet sits too.
        self._seated: dict[str, float] = {}
        self._round = _Round()
        #: Lines of adapters over their share, in a round of their own too.
        self._over, self._over_of = _Round(), _Aside()
        self._away = _Aside()
        self._standing = _Aside()
        #: Those who want the place back that they lent: before everybody else.
        self._returning: OrderedDict[Ticket, None] = OrderedDict()
        #: How many wait, and how many have started and not ended.
        self.waiting = 0
        self.busy = 0

    def waiting_for(self, adapter: str) -> int:
        """How many wait for this adapter, of all tenants."""
        return self._waiting.get(adapter, 0)

    def running(self, adapter: str) -> int:
        """How many of this adapter have started and not ended."""
        return self._running.get(adapter, 0)

    def has_room_for(self, adapter: str) -> bool:
        """Whether nobody waits, a place is free, and the adapter sits or may sit."""
        seated = adapter in self._seated or len(self._seated) < self._seats
        return not self.waiting and not self._returning and self._free > 0 and seated

    def join(self, ticket: Ticket) -> None:
        """Stand at the end of the line."""
        key = (ticket.tenant, ticket.adapter)
        line = self._lines.get(key)
        if line is None:
            line = self._lines[key] = _Line(*key)
            self._round.add(line)
        line.tickets[ticket] = None
        self.waiting += 1
        _count(self._waiting, ticket.adapter, 1)

    def leave(self, ticket: Ticket, now: float) -> None:
        """Stop waiting."""
        line = self._lines[ticket.tenant, ticket.adapter]
        del line.tickets[ticket]
        self._one_less(line)
        if ticket.adapter not in self._waiting and ticket.adapter not in self._running:
            self._give_up_seat(ticket.adapter, now)
        self._let_one_try(ticket.adapter)

    def next(self, now: float) -> Ticket | None:
        """The ticket that starts now, if any may."""
        if not self._free:
            return None
        if self._returning:
            self._free -= 1
            return self._returning.popitem(last=False)[0]
        line = self._candidate(now)
        if line is None:
            return None
        ticket = line.tickets.popitem(last=False)[0]
        self._one_less(line)
        self._free -= 1
        self.busy += 1
        _count(self._running, ticket.adapter, 1)
        if ticket.needs_seat and self.running(ticket.adapter) == 1:
            self._seated[ticket.adapter] = now
        return ticket

    def done(self, ticket: Ticket, now: float) -> None:
        """A running ticket has ended."""
        self._free += 1
        self._end(ticket, now)

    def lend(self, ticket: Ticket) -> None:
        """A running ticket lends its place; it keeps its seat, and counts as one of its adapter's."""
        self._free += 1
        _count(self._lent, ticket.adapter, 1)

    def back(self, ticket: Ticket) -> None:
        """It wants the place again. `next` gives it one before any other."""
        self._returning[ticket] = None
        self._no_longer_away(ticket.adapter)

    def gone(self, ticket: Ticket, now: float) -> None:
        """A ticket has ended that had lent its place, or was on its way back."""
        if ticket in self._returning:
            del self._returning[ticket]
        else:
            self._no_longer_away(ticket.adapter)
        self._end(ticket, now)

    # ---- who may

    def _candidate(self, now: float) -> _Line | None:
        while self._round:
            line = self._round.turn()
            if line.adapter in self._lent:
                self._round.discard(line)
                self._away.add(line)
            elif not self._may_sit(line, now):
                self._round.discard(line)
                self._stand(line, now)
            elif self.running(line.adapter) >= self._share:
                self._round.discard(line)
                self._over.add(line)
                self._over_of.add(line)
            else:
                return line
        return self._candidate_over(now)

    def _candidate_over(self, now: float) -> _Line | None:
        while self._over:
            line = self._over.turn()
            if line.adapter in self._lent:
                self._forget_over(line)
                self._away.add(line)
            elif not self._may_sit(line, now):
                self._forget_over(line)
                self._stand(line, now)
            else:
                return line
        return None

    def _may_sit(self, line: _Line, now: float) -> bool:
        if not next(iter(line.tickets)).needs_seat:
            return True
        since = self._seated.get(line.adapter)
        others = len(self._standing) - (line.adapter in self._standing)
        if since is None:
            return not others and len(self._seated) < self._seats
        return not others or now - since < TENURE_S or not self.running(line.adapter)

    def _stand(self, line: _Line, now: float) -> None:
        self._standing.add(line)
        self._offer_seats(now)

    def _offer_seats(self, now: float) -> None:
        """To those who have waited longest. One that still sits may go on once nobody stands before it."""
        while self._standing:
            adapter = self._standing.first
            if adapter not in self._seated and len(self._seated) >= self._seats:
                return
            self._seated[adapter] = now
            self._into_the_round(self._standing.take(adapter))

    def _let_one_try(self, adapter: str) -> None:
        # Of the lines over their share: the others would only be set aside again.
        line = self._over_of.one_of(adapter)
        if line is not None and self.running(adapter) < self._share:
            self._forget_over(line)
            self._round.add(line)

    # ---- bookkeeping

    def _end(self, ticket: Ticket, now: float) -> None:
        adapter = ticket.adapter
        self.busy -= 1
        _count(self._running, adapter, -1)
        if adapter not in self._running:
            self._give_up_seat(adapter, now)
        self._let_one_try(adapter)

    def _give_up_seat(self, adapter: str, now: float) -> None:
        if self._seated.pop(adapter, None) is not None:
            self._offer_seats(now)

    def _no_longer_away(self, adapter: str) -> None:
        _count(self._lent, adapter, -1)
        if adapter not in self._lent:
            self._into_the_round(self._away.take(adapter))

    def _into_the_round(self, lines: list[_Line]) -> None:
        for line in lines:
            self._round.add(line)

    def _one_less(self, line: _Line) -> None:
        self.waiting -= 1
        _count(self._waiting, line.adapter, -1)
        if not line.tickets:
            del self._lines[line.tenant, line.adapter]
            self._round.discard(line)
            self._forget_over(line)
            self._away.discard(line)
            self._standing.discard(line)

    def _forget_over(self, line: _Line) -> None:
        self._over.discard(line)
        self._over_of.discard(line)


def _count(counts: dict[str, int], name: str, change: int) -> None:
    """Zeros are not kept."""
    count = counts.get(name, 0) + change
    if count:
        counts[name] = count
    else:
        del counts[name]


class Pace:
    """How fast something is going, from when it happened: recent events count more, and silence lowers it."""

    #: What happened this long ago counts about a third.
    _MEMORY_S = 10.0

    def __init__(self, now: float) -> None:
        self._since = now
        self._at = now
        self._sum = 0.0

    def note(self, now: float) -> None:
        """It has happened once more."""
        self._sum = self._sum * self._fading(now - self._at) + 1
        self._at = now

    def rate(self, now: float, *, busy: int) -> float:
        """Events in a second, by what has been seen since the beginning. Never 0.

        Where nothing has been seen yet it is a guess: each of the `busy` takes as long as it has been, or a second.
        """
        seen = 1 - self._fading(now - self._since)
        if not self._sum or not seen:
            return max(1, busy) / max(1.0, now - self._since)
        return self._sum * self._fading(now - self._at) / (self._MEMORY_S * seen)

    def _fading(self, seconds: float) -> float:
        return math.exp(-seconds / self._MEMORY_S)
