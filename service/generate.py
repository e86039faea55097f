"""The story of one completion request, top to bottom. Design, section 4, in code.

1. The body is parsed once and its names are checked.
2. `model` becomes a version, from memory; a canary gets its share of the users.
3. What the request leaves open is filled from the defaults of adapter, version and base model.
4. Admission: a place in front of the engine, or a 429.
5. Residency: the version is loaded if it is not, and pinned.
6. The body goes to the engine; bytes come back as they are. A shadow gets the same, once the answer has begun.
7. Whoever leaves, cancels: place, pin and generation are released when the response ends, however it ends.
"""

import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from typing import Any

from adapters.errors import GraftError, InvalidRequest, ModelNotFound, Unavailable
from adapters.records import JsonObject
from service.admission import Admission
from service.catalog import Catalog, Target
from service.defaults import fill
from service.engine.protocol import EngineReply
from service.engines import EngineHost, Engines
from service.errors import engine_error_body, envelope
from service.loops import marked, marked_events
from service.metrics import Metrics
from service.schemas.sampling import check_fields
from service.settings import ServiceSettings
from service.shadow import Shadows
from service.split import anybody

_NOT_FOUND = 404
_BAD_REQUEST = 400
_SERVER_ERROR = 500


@dataclass(frozen=True, slots=True)
class Prepared:
    """A checked request: where it goes, and the bytes that go there."""

    path: str
    target: Target
    body: bytes
    stream: bool
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


class Generator:
    """Answers completion requests."""

    def __init__(
        self,
        *,
        settings: ServiceSettings,
        catalog: Catalog,
        engines: Engines,
        admissions: Mapping[str, Admission],
        shadows: Shadows,
        metrics: Metrics,
    ) -> None:
        self._settings = settings
        self._catalog = catalog
        self._engines = engines
        self._admissions = admissions
        self._shadows = shadows
        self._metrics = metrics

    async def prepare(
        self, path: str, raw: bytes, known: frozenset[str], *, user: str | None = None
    ) -> Prepared:
        """Steps 1 to 3. `user` is whose request it is, where the body does not say.

        Raises InvalidRequest, UnknownField, InvalidValue, ModelNotFound.
        """
        asked = _parse(raw)
        body = check_fields(asked, known, max_choices=self._settings.max_choices)
        model = body.get("model")
        if not isinstance(model, str):
            raise InvalidRequest(
                "'model' is required: a base model or an adapter's name.", param="model"
            )
        target = await self._catalog.resolve(model, _ticket(asked) or user or anybody())
        return self._prepared(path, body, target)

    def _prepared(self, path: str, body: JsonObject, target: Target) -> Prepared:
        filled = fill(body, *target.defaults)
        shadow = None
        if target.shadow is not None:
            silent = {k: v for k, v in body.items() if k not in {"stream", "stream_options"}}
            shadow = replace(self._prepared(path, silent, target.shadow), kind="shadow")
        return Prepared(
            path,
            target,
            json.dumps(filled.body | {"model": target.engine_name}).encode(),
            stream=bool(body.get("stream")),
            guarded=filled.guarded,
            shadow=shadow,
            kind="adapter" if target.version else "base",
        )

    async def answer(self, request: Prepared) -> Answer:
        """Steps 4 to 7. Raises Overloaded, Unavailable, EngineFault before the first byte; none after."""
        started = time.monotonic()
        stack = AsyncExitStack()
        try:
            reply = await self._send(request, stack)
            body = reply.body
            if reply.status >= _BAD_REQUEST:
                body = _translated(reply)
            elif request.guarded:
                body = self._marked(request, body)
        except BaseException as error:
            await stack.aclose()
            self._count(request, _outcome_of(error))
            raise
        self._metrics.first_byte_seconds.labels(request.target.base_model, request.kind).observe(
            time.monotonic() - started
        )
        if request.shadow is not None:
            self._send_shadow(request.shadow)
        return Answer(
            status=reply.status,
            content_type=reply.content_type,
            version=request.target.engine_name,
            body=self._relay(request, reply.status, body),
            release=stack.aclose,
        )

    async def _send(self, request: Prepared, stack: AsyncExitStack) -> EngineReply:
        host = self._engines[request.target.base_model]
        if not host.up:
            await host.wait_up(self._settings.engine_wait_seconds)
        await stack.enter_async_context(self._admissions[host.model_id].admitted())
        try:
            return await self._send_pinned(host, request, stack)
        except Unavailable:
            host.mark_down()
            raise host.unavailable() from None

    async def _send_pinned(
        self, host: EngineHost, request: Prepared, stack: AsyncExitStack
    ) -> EngineReply:
        version = request.target.version
        if version is None:
            return await stack.enter_async_context(host.engine.post(request.path, request.body))
        await stack.enter_async_context(host.residency.pinned(version))
        reply = await stack.enter_async_context(host.engine.post(request.path, request.body))
        if reply.status != _NOT_FOUND:
            return reply
        # The engine was restarted between two looks of the watch and has forgotten the adapter: load and ask again.
        host.residency.forget(version.name)
        await host.residency.ensure(version)
        return await stack.enter_async_context(host.engine.post(request.path, request.body))

    async def _relay(
        self,
        request: Prepared,
        status: int,
        body: AsyncIterator[bytes],
    ) -> AsyncIterator[bytes]:
        outcome = "cancelled"
        try:
            async for chunk in body:
                yield chunk
            outcome = _outcome(status)
        except Unavailable:
            outcome = "engine_error"
            host = self._engines[request.target.base_model]
            host.mark_down()
            if not request.stream:
                raise
            yield f"data: {json.dumps(envelope(host.unavailable()))}\n\n".encode()
        finally:
            self._count(request, outcome)

    def _marked(self, request: Prepared, body: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        stopped = self._metrics.repetition_stops.labels(request.target.base_model).inc
        return marked_events(body, stopped) if request.stream else marked(body, stopped)

    def _send_shadow(self, shadow: Prepared) -> None:
        """Never in anybody's way: not while others wait for the engine."""
        base_model = shadow.target.base_model
        if self._admissions[base_model].busy:
            self._shadows.drop(base_model)
            return

        async def unheard() -> None:
            await collect(await self.answer(shadow))

        self._shadows.send(base_model, unheard)

    def _count(self, request: Prepared, outcome: str) -> None:
        base_model = request.target.base_model
        self._metrics.completions.labels(base_model, request.kind, outcome).inc()


async def collect(answer: Answer) -> bytes:
    """The whole body of an answer that is not streamed; releases it."""
    try:
        return b"".join([chunk async for chunk in answer.body])
    finally:
        await answer.release()


async def _translated(reply: EngineReply) -> AsyncIterator[bytes]:
    raw = b"".join([chunk async for chunk in reply.body])
    yield engine_error_body(raw, reply.status)


def _parse(raw: bytes) -> dict[str, Any]:
    try:
        body = json.loads(raw)
    except ValueError as error:
        raise InvalidRequest(f"The body is not valid JSON: {error}.") from error
    if not isinstance(body, dict):
        raise InvalidRequest("The body must be a JSON object.")
    return body


def _ticket(body: JsonObject) -> str | None:
    """Whose request it is, as OpenAI's clients say it: in the newer field or in the older one."""
    named = (body.get("safety_identifier"), body.get("user"))
    return next((user for user in named if isinstance(user, str) and user), None)


def _outcome(status: int) -> str:
    if status >= _SERVER_ERROR:
        return "engine_error"
    return "client_error" if status >= _BAD_REQUEST else "ok"


def _outcome_of(error: BaseException) -> str:
    if not isinstance(error, GraftError):
        return "cancelled"
    if isinstance(error, ModelNotFound):
        return "client_error"
    return "overloaded" if error.code == "rate_limit_exceeded" else "engine_error"
