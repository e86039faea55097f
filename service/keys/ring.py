"""Who asks: a key becomes a caller, from memory where it can."""

import asyncio
import logging
import time
from collections import OrderedDict
from dataclasses import dataclass

from adapters.clock import Clock
from adapters.errors import Unauthenticated, Unavailable
from adapters.keys import Key, Scope, could_be_key, digest_of
from adapters.ledger import KeyCabinet
from adapters.records import DEFAULT_TENANT

log = logging.getLogger(__name__)

#: A key that is revoked opens nothing after this time, on every replica.
REMEMBERED_S = 3.0
#: While the database does not answer, nothing can be revoked in it either: keys stay good for this long.
_GRACE_S = 300.0
_MOST_REMEMBERED = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who asks, and what that opens."""

    tenant: str
    scopes: frozenset[Scope]
    #: None where keys are off.
    key_id: str | None


#: Everybody, where keys are off.
ANYBODY = Caller(tenant=DEFAULT_TENANT, scopes=frozenset(Scope), key_id=None)


@dataclass(frozen=True, slots=True)
class _Seen:
    """What the database said of a digest, and when."""

    key: Key | None
    at: float


class KeyRing:
    """Knows keys by their digests; the keys themselves are forgotten at once."""

    def __init__(
        self, cabinet: KeyCabinet, *, clock: Clock = time.time, timer: Clock = time.monotonic
    ) -> None:
        self._cabinet, self._clock, self._timer = cabinet, clock, timer
        #: In the order of their last use.
        self._seen: OrderedDict[str, _Seen] = OrderedDict()
        self._asking: dict[str, asyncio.Task[Key | None]] = {}

    async def caller_of(self, secret: str | None) -> Caller:
        """Who has that key.

        Raises:
            Unauthenticated: there is none, or it is none of ours, or it has been revoked or has expired.
            Unavailable: the database must be asked and does not answer.
        """
        if not secret:
            raise Unauthenticated(
                "You didn't provide an API key. Send it in the Authorization header, as "
                "'Authorization: Bearer YOUR_KEY'."
            )
        key = await self._key(digest_of(secret)) if could_be_key(secret) else None
        if key is None:
            raise Unauthenticated("Incorrect API key provided. `graft keys create` makes one.")
        if not key.good(self._clock()):
            what = "been revoked" if key.revoked_at is not None else "expired"
            raise Unauthenticated(f"The API key provided, {key.id}, has {what}.")
        return Caller(tenant=key.tenant, scopes=frozenset(key.scopes), key_id=key.id)

    async def _key(self, digest: str) -> Key | None:
        seen = self._seen.get(digest)
        if seen is not None and self._timer() - seen.at < REMEMBERED_S:
            self._seen.move_to_end(digest)
            return seen.key
        try:
            key = await self._ask(digest)
        except Unavailable as error:
            if seen is None or self._timer() - seen.at > _GRACE_S:
                raise
            log.warning("a key could not be looked up, and is taken for what it was: %s", error)
            return seen.key
        self._seen[digest] = _Seen(key, self._timer())
        self._seen.move_to_end(digest)
        if len(self._seen) > _MOST_REMEMBERED:
            self._seen.popitem(last=False)
        return key

    async def _ask(self, digest: str) -> Key | None:
        """Many requests with one key ask the database once."""
        asking = self._asking.get(digest)
        if asking is None:
            asking = asyncio.create_task(asyncio.to_thread(self._cabinet.find, digest))
            self._asking[digest] = asking
            asking.add_done_callback(lambda _: self._asking.pop(digest, None))
        # Shielded: the one who asked first may leave; the answer is everybody's.
        return await asyncio.shield(asking)
