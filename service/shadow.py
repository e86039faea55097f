"""Requests that are sent once more, to a version that looks on. Nobody waits for them, and nobody reads the answers."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from adapters.errors import GraftError
from service.metrics import Metrics

log = logging.getLogger(__name__)


class Shadows:
    """At most so many at a time; what would be more is dropped and counted."""

    def __init__(self, *, most: int, metrics: Metrics) -> None:
        self._most = most
        self._metrics = metrics
        self._under_way: set[asyncio.Task[None]] = set()

    def send(self, base_model: str, errand: Callable[[], Awaitable[None]]) -> None:
        """Begin the errand, unless too many are under way. Returns at once."""
        if len(self._under_way) >= self._most:
            self.drop(base_model)
            return
        task = asyncio.create_task(_run(errand))
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    def drop(self, base_model: str) -> None:
        """Count one that is not sent."""
        self._metrics.answers.shadows_dropped.labels(base_model).inc()

    async def close(self) -> None:
        """Cancel what is under way."""
        tasks = tuple(self._under_way)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _run(errand: Callable[[], Awaitable[None]]) -> None:
    try:
        await errand()
    except GraftError as error:
        log.info("a shadow request failed: %s", error)
