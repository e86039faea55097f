"""The gate before every route, mounted ones and unknown paths included: nothing is open that is not said to be."""

from collections.abc import Collection

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope as Connection, Send

from adapters import logs
from adapters.errors import Forbidden, GraftError
from service.errors import error_response
from service.keys.access import scopes_for
from service.keys.ring import ANYBODY, Caller, KeyRing

_BEARER = "bearer"
#: WebSocket's code for a breach of policy.
_REFUSED = 1008


class Gate:
    """Finds out who asks, and whether they may. Plain ASGI; the caller is in the scope's state from here on."""

    def __init__(self, app: ASGIApp, *, keys: bool, open_paths: Collection[str]) -> None:
        self._app, self._keys, self._open_paths = app, keys, open_paths

    async def __call__(self, scope: Connection, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or (self._keys and scope["path"] in self._open_paths):
            await self._app(scope, receive, send)
            return
        try:
            caller = await _admit(scope) if self._keys else ANYBODY
        except GraftError as error:
            await _refuse(error, scope, receive, send)
            return
        scope.setdefault("state", {})["caller"] = caller
        logs.note(tenant=caller.tenant)
        await self._app(scope, receive, send)


async def _admit(scope: Connection) -> Caller:
    """Raises Unauthenticated, Forbidden, Unavailable."""
    ring: KeyRing = scope["state"]["keys"]
    caller = await ring.caller_of(_secret(Headers(scope=scope)))
    wanted = scopes_for(scope.get("method", "GET"), scope["path"])
    if not caller.scopes & wanted:
        names = " or ".join(sorted(wanted))
        raise Forbidden(
            f"You have insufficient permissions for this operation. Missing scopes: {names}. "
            "Ask with a key that has it."
        )
    return caller


def _secret(headers: Headers) -> str | None:
    """The key of a request, from the header of OpenAI's clients or from one that others use."""
    scheme, _, secret = headers.get("authorization", "").partition(" ")
    if scheme.lower() == _BEARER:
        return secret.strip()
    return headers.get("api-key") or headers.get("x-api-key")


async def _refuse(error: GraftError, scope: Connection, receive: Receive, send: Send) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": _REFUSED, "reason": error.code})
        return
    await error_response(error)(scope, receive, send)
