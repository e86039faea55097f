"""Requests that are being answered. A service that stops lets their last words get out before it ends.

When the server's patience is over (`drain_seconds`) it cancels them, each says so to its client, and the application is
shut down in the same moment: what a slow client has not taken by then would be lost, and its answer cut.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress

#: A client that takes nothing for so long is left behind.
_LAST_WORDS_S = 3.0
#: What was written last is on its way to the kernel.
_FLUSH_S = 0.1


class Underway:
    """How many there are."""

    def __init__(self) -> None:
        self._count = 0
        self._none = asyncio.Event()

    @contextmanager
    def one(self) -> Iterator[None]:
        """A request, for as long as it is answered."""
        self._count += 1
        try:
            yield
        finally:
            self._count -= 1
            if not self._count:
                self._none.set()

    async def end(self) -> None:
        """Return when there are none left, soon in any case."""
        if not self._count:
            return
        self._none.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(_LAST_WORDS_S):
                await self._none.wait()
        await asyncio.sleep(_FLUSH_S)
