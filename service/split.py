"""Who answers a request for the bare name, while a canary has a share of them or a shadow looks on."""

import hashlib
import random

from adapters.names import CANARY, SHADOW
from adapters.records import Adapter, JsonObject, Version
from service.schemas.endpoints import Endpoint


def draw(adapter: str, ticket: str) -> float:
    """A number from 0 to 1 (exclusive) that is the same for the same adapter and ticket, in every process.

    The first 8 bytes of the SHA-256 of `adapter`, a zero byte and `ticket`, as a big-endian fraction. The adapter's
    name is in it so that the first users of one canary are not the first of all.
    """
    digest = hashlib.sha256(f"{adapter}\0{ticket}".encode(errors="surrogatepass")).digest()
    # 53 bits are what a float holds; with all 64 the largest would be rounded up to 1.
    return (int.from_bytes(digest[:8], "big") >> 11) / 2**53


def ticket_of(body: JsonObject, endpoint: Endpoint) -> str | None:
    """Whose request it is, as OpenAI's clients say it, in the newer field or in the older one, or as Anthropic's do."""
    about = body.get("metadata") if endpoint.dialect == "messages" else None
    theirs = about.get("user_id") if isinstance(about, dict) else None
    named = (body.get("safety_identifier"), body.get("user"), theirs)
    return next((user for user in named if isinstance(user, str) and user), None)


def anybody() -> str:
    """A ticket for a request of which nobody says whose it is."""
    return str(random.getrandbits(64))


def answering(adapter: Adapter, ticket: str) -> Version | None:
    """The canary where the ticket's draw is below its share, else the live version; None where there is none.

    One that is quarantined has no share.

    A share that grows takes in more tickets and lets none go.
    """
    canary = adapter.sharing(CANARY)
    if canary is not None and draw(adapter.name, ticket) < canary[0]:
        return canary[1] if canary[1].quarantined is None else adapter.live
    return adapter.live


def looking_on(adapter: Adapter) -> Version | None:
    """The shadow, for its share of the requests; None for the others."""
    shadow = adapter.sharing(SHADOW)
    if shadow is None or shadow[1].quarantined or random.random() >= shadow[0]:  # noqa: S311  who looks on is nobody's secret
        return None
    return shadow[1]
