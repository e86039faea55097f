"""News of the ledger, which a thread of its own tells, in an event loop."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from adapters.ledger import BEHIND_S, Changes, Topic

#: How often who waits for a job looks at it, in seconds, where nobody tells of every commit.
POLL_S = 0.25


@contextmanager
def heard(changes: Changes, topic: Topic) -> Iterator[asyncio.Event]:
    """Inside the context, an event of the running loop that is set when there may be news; who looks clears it."""
    loop, news = asyncio.get_running_loop(), asyncio.Event()
    leave = changes.follow(topic, lambda: loop.call_soon_threadsafe(news.set))
    try:
        yield news
    finally:
        leave()


async def happens(event: asyncio.Event, *, within: float) -> None:
    """Return when it does, or after so many seconds."""
    with suppress(TimeoutError):
        async with asyncio.timeout(within):
            await event.wait()


async def job_may_have_changed(news: asyncio.Event, changes: Changes, *, within: float) -> None:
    """Return when there is news of `Topic.LOGGED`, when it is time to look anyway, or after so many seconds."""
    pause = BEHIND_S if changes.told_of_commits else POLL_S
    await happens(news, within=min(pause, within))
