"""A request to a model as it goes to an engine, and the answer that comes back. Their story is generate.py."""

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

from service.catalog import Target
from service.rates import Foreseen
from service.schemas.endpoints import Endpoint

#: Of what only counts or turns tokens.
NOTHING = Foreseen(0, 0)


@dataclass(frozen=True, slots=True)
class Prepared:
    """A checked request: whose it is, where it goes, and the bytes that go there."""

    endpoint: Endpoint
    tenant: str
    target: Target
    body: bytes
    stream: bool
    #: What it is likely to cost.
    foreseen: Foreseen = NOTHING
    #: Whether an answer that loops is stopped and marked.
    guarded: bool = False
    #: The same request for a version whose answer nobody sees.
    shadow: "Prepared | None" = None
    #: Who answers, for the metrics: `base`, `adapter` or `shadow`.
    kind: str = "adapter"


@dataclass(slots=True)
class Answer:
    """The engine's answer, still arriving. Whoever has it calls `release` in the end, whether it read `body` or not.

    `body` does not release by itself: a generator that was never started, because the client left before the first
    byte, cannot clean up.
    """

    status: int
    content_type: str
    version: str
    body: AsyncIterator[bytes]
    release: Callable[[], Awaitable[None]]
    #: The event that ends a stream here, where the service must stop before the engine has.
    farewell: Callable[[], bytes] = bytes


async def collect(answer: Answer) -> bytes:
    """The whole body of an answer that is not streamed; releases it."""
    try:
        return b"".join([chunk async for chunk in answer.body])
    finally:
        await answer.release()
