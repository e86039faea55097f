"""What holds for every request: an id, a limit on its size, a count. Plain ASGI, so that streams pass untouched."""

import asyncio
import logging
import re
import time
from collections.abc import Callable
from http import HTTPStatus
from uuid import uuid4

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from adapters import logs
from adapters.errors import GraftError, InvalidRequest, PayloadTooLarge
from adapters.traces import Span, Tracer
from service.errors import error_response, stopping
from service.metrics import Metrics
from service.underway import Underway

log = logging.getLogger("graft.access")

#: HTTP lets a client make up a method; as a label each would be a series for ever.
_METHODS = frozenset({"DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"})
#: Asked every few seconds for ever: neither traced nor, unless something is wrong, logged.
_BY_MACHINES = frozenset({"/healthz", "/readyz", "/metrics", "/metrics/engines"})
_W3C = (b"traceparent", b"tracestate")
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")


class RequestIds:
    """Give each request an id, the client's own where it sent a sane one, and name it in the response."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if _REQUEST_ID.fullmatch(given) else f"req_{uuid4().hex}"
        scope.setdefault("state", {})["request_id"] = request_id

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["x-request-id"] = request_id
            await send(message)

        with logs.about(request_id=request_id):
            await self._app(scope, receive, send_with_id)


class Traces:
    """A span around each request, below the caller's own where it has one. Only in the way where somebody is told."""

    def __init__(self, app: ASGIApp, tracer: Tracer) -> None:
        self._app, self._tracer = app, tracer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in _BY_MACHINES:
            await self._app(scope, receive, send)
            return
        method = method_of(scope)
        caller = {
            name.decode(): value.decode("latin-1")
            for name, value in scope["headers"]
            if name in _W3C
        }
        status = 500

        async def note_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        with self._tracer.begin(method, kind="server", caller=caller) as span:
            logs.note(trace_id=span.trace_id)
            if not span.told:
                await self._app(scope, receive, send)
                return
            try:
                await self._app(scope, receive, note_status)
            finally:
                _conclude(span, scope, method, status)


def _conclude(span: Span, scope: Scope, method: str, status: int) -> None:
    """The route as a template: paths have names in them that users gave."""
    state, route = scope.get("state", {}), route_of(scope)
    span.rename(f"{method} {route}")
    span.note(
        {
            "http.request.method": method,
            "http.route": route,
            "http.response.status_code": status,
            "url.scheme": scope.get("scheme", "http"),
            "graft.request_id": state.get("request_id", ""),
        }
    )
    if (caller := state.get("caller")) is not None:
        span.note({"graft.tenant": caller.tenant})
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        span.fail(str(status))


def route_of(scope: Scope) -> str:
    """The template of the route that was found, so that there are few."""
    return str(getattr(scope.get("route"), "path", "unknown"))


def method_of(scope: Scope) -> str:
    """The method, if it is one."""
    return scope["method"] if scope["method"] in _METHODS else "other"


class LastResort:
    """Answer for what no handler foresaw. Starlette's own place for this lies outside of the request's id."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def note_start(message: Message) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        try:
            await self._app(scope, receive, note_start)
        except ClientDisconnect:
            # In the middle of an upload. Nobody reads this answer, but it is counted as what it is: not our fault.
            left = InvalidRequest("The connection was closed before the request was whole.")
            await error_response(left)(scope, receive, send)
        except asyncio.CancelledError:
            # By the server, whose patience with what is under way is over (`drain_seconds`). The task ends here anyway.
            if scope["type"] != "http":
                raise
            if not started:
                await error_response(stopping())(scope, receive, send)
        except Exception:
            # The last door before the client: it must get an envelope, and the log the rest.
            if scope["type"] != "http" or started:
                raise
            log.exception("unforeseen error in %s %s", scope["method"], scope["path"])
            told = GraftError("Something went wrong on our side. The service's log says what.")
            await error_response(told)(scope, receive, send)


class Watch:
    """Count and log requests. The route label is the template, never the path."""

    def __init__(self, app: ASGIApp, metrics: Metrics, underway: Underway) -> None:
        self._app = app
        self._metrics = metrics
        self._underway = underway

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = time.monotonic(), 500

        async def note_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            with self._underway.one():
                await self._app(scope, receive, note_status)
        finally:
            took = time.monotonic() - started
            route = route_of(scope)
            self._metrics.http.note(route, method_of(scope), status, took)
            request_id = scope.get("state", {}).get("request_id", "-")
            logs.note(route=route, status=status, milliseconds=round(took * 1000))
            usual = scope["path"] in _BY_MACHINES and status < HTTPStatus.BAD_REQUEST
            log.log(
                logging.DEBUG if usual else logging.INFO,
                "%s %s %d %.0f ms %s",
                *(scope["method"], route, status, took * 1000, request_id),
            )


class BodyLimit:
    """Refuse a body that is too large: by its announced length before reading it, else when it crosses the line."""

    def __init__(self, app: ASGIApp, limit_for: Callable[[str], int]) -> None:
        self._app = app
        self._limit_for = limit_for

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        limit = self._limit_for(scope["path"])
        announced = Headers(scope=scope).get("content-length", "0")
        if announced.isdecimal() and int(announced) > limit:
            await error_response(_too_large(limit))(scope, receive, send)
            return
        seen = 0

        async def receive_counted() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > limit:
                raise _too_large(limit)
            return message

        await self._app(scope, receive_counted, send)


def _too_large(limit: int) -> PayloadTooLarge:
    return PayloadTooLarge(
        f"The body is larger than {limit:,} bytes, the most that this server takes."
    )
