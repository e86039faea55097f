"""Who may go to the engine now, and how many may wait. Bounded: beyond that, an honest 429."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from adapters.errors import Overloaded
from service.metrics import Metrics

#: Weight of the newest request in the running mean of how long one takes.
_NEWEST = 0.1


class Admission:
    """The queue in front of one engine: first come, first served."""

    def __init__(self, model_id: str, *, running: int, waiting: int, metrics: Metrics) -> None:
        self._places = asyncio.Semaphore(running)
        self._running = running
        self._max_waiting = waiting
        self._waiting = 0
        self._mean_seconds = 1.0
        self._gauge = metrics.waiting.labels(model_id)

    @property
    def busy(self) -> bool:
        """Whether a request that came now would have to wait."""
        return self._places.locked()

    @asynccontextmanager
    async def admitted(self) -> AsyncIterator[None]:
        """Hold a place inside the context.

        Raises:
            Overloaded: too many are waiting already; says when a place is likely.
        """
        if self._places.locked() and self._waiting >= self._max_waiting:
            wait = max(1.0, self._mean_seconds * (self._waiting + 1) / self._running)
            raise Overloaded(
                f"{self._waiting} requests are waiting already. Try again in about {wait:.0f} s.",
                retry_after=wait,
            )
        await self._take_place()
        started = time.monotonic()
        try:
            yield
        finally:
            self._places.release()
            took = time.monotonic() - started
            self._mean_seconds += _NEWEST * (took - self._mean_seconds)

    async def _take_place(self) -> None:
        self._waiting += 1
        self._gauge.set(self._waiting)
        try:
            await self._places.acquire()
        finally:
            self._waiting -= 1
            self._gauge.set(self._waiting)
