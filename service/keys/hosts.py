"""Whether a request was meant for this server. Where there are no keys, that is all that keeps web pages out.

A page that somebody opens in a browser on this machine may send requests to loopback, and read the answers once its
own name leads there (DNS rebinding). Both show: in the `Host` that it asks for, and in the `Origin` that browsers add.
"""

from collections.abc import Collection
from functools import lru_cache
from typing import Final
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from adapters.errors import Misdirected
from service.errors import error_response
from service.settings import is_loopback

#: What probes ask for, at whatever address they find the service; it says nothing of anybody's.
_PROBES: Final = frozenset({"/healthz", "/readyz"})
_REFUSED: Final = 1008
#: Characters of a URL with a name of DNS (253, RFC 1035) and a port; and how many of them are remembered.
_LONGEST: Final = 300
_REMEMBERED: Final = 1024


class Hosts:
    """Refuses requests for other names than these, and those of pages from elsewhere. Plain ASGI.

    `names` are the names that this server goes by. Where there are none, it is this machine's own names if `keys` are
    off, and any name if they are on: a page cannot send a key that nobody gave it.
    """

    def __init__(self, app: ASGIApp, *, names: Collection[str], keys: bool) -> None:
        self._app = app
        self._names = frozenset(name.lower() for name in names)
        self._open = keys and not self._names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or self._open or scope["path"] in _PROBES:
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        host, origin = _name(f"//{headers.get('host', '')}"), headers.get("origin")
        if self._ours(host) and (origin is None or self._ours(_name(origin))):
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": _REFUSED, "reason": Misdirected.code})
        else:
            await error_response(_misdirected())(scope, receive, send)

    def _ours(self, name: str) -> bool:
        return name in self._names if self._names else _is_loopback(name)


# Clients ask for the same few names again and again, and a first token would wait until they are read.
_is_loopback = lru_cache(_REMEMBERED)(is_loopback)


def _name(url: str) -> str:
    """The host in a URL, in small letters; empty where there is none."""
    return _read(url) if len(url) <= _LONGEST else ""


@lru_cache(_REMEMBERED)
def _read(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def _misdirected() -> Misdirected:
    return Misdirected(
        "This server answers to other names than the one that was asked for, or the request comes from a page of "
        "another site. Ask for 127.0.0.1 or localhost; or whoever runs it names more hosts (service.allowed_hosts), or "
        "turns keys on (service.auth)."
    )
