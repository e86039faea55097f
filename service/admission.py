"""Who may go to the engine now, and how many may wait. Bounded: beyond that, an honest 429.

The order is `service/fairness.py`'s; here are the events that a waiting request sleeps on.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from adapters.errors import Overloaded
from adapters.traces import current
from service.fairness import FairQueue, Pace, Ticket
from service.metrics import Metrics
from service.settings import ServiceSettings

#: Bounds of what a client is told to wait. Where nothing has moved for long, nobody knows.
_SHORTEST_S, _LONGEST_S = 1.0, 120.0


class Place:
    """A place in front of the engine, held by one request."""

    def __init__(self, admission: "Admission", ticket: Ticket) -> None:
        self._admission = admission
        self._ticket = ticket

    @asynccontextmanager
    async def lent(self) -> AsyncIterator[None]:
        """Let others have the place inside the context; have it again after it, before those who wait."""
        async with self._admission.lent(self._ticket):
            yield


class Admission:
    """The queue in front of one engine."""

    def __init__(
        self,
        model_id: str,
        settings: ServiceSettings,
        *,
        seats: int,
        metrics: Metrics,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._queue = FairQueue(
            places=settings.max_running, share=settings.max_running_per_adapter, seats=seats
        )
        self._most = settings.max_waiting
        self._most_for_one = settings.max_waiting_per_adapter
        self._clock = clock
        self._turns: dict[Ticket, asyncio.Future[None]] = {}
        #: Tickets that have lent their places, so that their end frees none.
        self._lent: set[Ticket] = set()
        self._pace = Pace(clock())
        #: Of adapters that somebody waits for or runs.
        self._paces: dict[str, Pace] = {}
        self._gauge = metrics.answers.waiting.labels(model_id)
        self._waits = metrics.answers.wait_seconds.labels(model_id)

    def has_room_for(self, adapter: str) -> bool:
        """Whether a request for an adapter could start now, and nobody waits who might want the place."""
        return self._queue.has_room_for(adapter)

    @asynccontextmanager
    async def admitted(
        self, tenant: str, adapter: str, *, needs_seat: bool
    ) -> AsyncIterator[Place]:
        """Hold a place inside the context.

        Raises:
            Overloaded: too many are waiting already, at all or for this adapter; says when they will have gone.
        """
        ticket = Ticket(tenant, adapter, needs_seat)
        await self._enter(ticket)
        try:
            yield Place(self, ticket)
        finally:
            self._end(ticket)

    @asynccontextmanager
    async def lent(self, ticket: Ticket) -> AsyncIterator[None]:
        """See `Place.lent`."""
        self._queue.lend(ticket)
        self._lent.add(ticket)
        self._go_on()
        yield
        self._queue.back(ticket)
        await self._turn(ticket)

    async def _enter(self, ticket: Ticket) -> None:
        started = self._clock()
        self._queue.join(ticket)
        self._paces.setdefault(ticket.adapter, Pace(started))
        try:
            await self._turn(ticket)
        except BaseException:
            if ticket in self._turns:
                del self._turns[ticket]
                self._queue.leave(ticket, self._clock())
                self._forget_pace(ticket.adapter)
                self._go_on()
            else:
                # Cancelled at the very moment at which its turn came.
                self._end(ticket)
            raise
        finally:
            self._gauge.set(self._queue.waiting)
        self._waits.observe(self._clock() - started)

    async def _turn(self, ticket: Ticket) -> None:
        turn = self._turns[ticket] = asyncio.get_running_loop().create_future()
        with current().begin("graft.admission"):
            self._go_on()
            if not turn.done():
                if ticket not in self._lent:
                    self._refuse_if_full(ticket)
                self._gauge.set(self._queue.waiting)
            await turn

    def _go_on(self) -> None:
        """Start everybody who may start."""
        while (ticket := self._queue.next(self._clock())) is not None:
            self._lent.discard(ticket)
            turn = self._turns.pop(ticket)
            # One that was cancelled a moment ago has not woken up yet; it hands the place on when it does.
            if not turn.done():
                turn.set_result(None)

    def _end(self, ticket: Ticket) -> None:
        now = self._clock()
        self._pace.note(now)
        self._paces[ticket.adapter].note(now)
        if ticket in self._lent:
            self._lent.discard(ticket)
            self._turns.pop(ticket, None)
            self._queue.gone(ticket, now)
        else:
            self._queue.done(ticket, now)
        self._forget_pace(ticket.adapter)
        self._go_on()

    def _forget_pace(self, adapter: str) -> None:
        if not self._queue.waiting_for(adapter) and not self._queue.running(adapter):
            self._paces.pop(adapter, None)

    def _refuse_if_full(self, ticket: Ticket) -> None:
        # The one who asks stands in the queue already.
        for_one = self._queue.waiting_for(ticket.adapter) - 1
        if for_one >= self._most_for_one:
            pace, busy = self._paces[ticket.adapter], self._queue.running(ticket.adapter)
            wait = self._until(for_one, pace, busy)
            raise Overloaded(
                f"{for_one} requests are waiting for '{ticket.adapter}' already. Try again in about {wait:.0f} s.",
                retry_after=wait,
            )
        everybody = self._queue.waiting - 1
        if everybody >= self._most:
            wait = self._until(everybody, self._pace, self._queue.busy)
            raise Overloaded(
                f"{everybody} requests are waiting already. Try again in about {wait:.0f} s.",
                retry_after=wait,
            )

    def _until(self, waiting: int, pace: Pace, busy: int) -> float:
        """Seconds until those who wait have gone, at the pace of late."""
        wait = waiting / pace.rate(self._clock(), busy=busy)
        return min(_LONGEST_S, max(_SHORTEST_S, wait))
