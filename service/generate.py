"""The story of one request to a model, top to bottom. Design, section 4, in code.

1. The body is parsed once; its names are checked, and how much it asks for.
2. `model` becomes a version, from memory.
3. What the request leaves open is filled from the version's defaults.
4. Admission: a place in front of the engine in fair order, or a 429.
5. Residency: the version is loaded if it is not, while others use the place, and pinned.
6. The body goes to the engine; bytes come back as they are. Where the engine dies before the first of them has been
   passed on, the request is sent once more; after it, the stream ends with an error.
7. Whoever leaves, cancels: place, pin and generation are released when the response ends, however it ends.
"""

import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

from adapters import logs
from adapters.errors import EngineFault, GraftError, InvalidRequest, ModelNotFound, Unavailable
from service.admission import Admission
from service.catalog import Catalog, Target
from service.engine.protocol import EngineReply
from service.engines import EngineHost, Engines
from service.errors import engine_error_body, error_event
from service.metrics import Metrics
from service.relay import Meter, whole_events
from service.schemas.caps import check_caps
from service.schemas.endpoints import Endpoint
from service.schemas.sampling import check_fields
from service.settings import ServiceSettings
from service.tallies import Ending

_NOT_FOUND = 404
_BAD_REQUEST = 400
_SERVER_ERROR = 500


@dataclass(frozen=True, slots=True)
class Prepared:
    """A checked request: whose it is, where it goes, and the bytes that go there."""

    endpoint: Endpoint
    tenant: str
    target: Target
    body: bytes
    stream: bool


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
    """Answers requests to models."""

    def __init__(
        self,
        *,
        settings: ServiceSettings,
        catalog: Catalog,
        engines: Engines,
        admissions: Mapping[str, Admission],
        metrics: Metrics,
    ) -> None:
        self._settings = settings
        self._catalog = catalog
        self._engines = engines
        self._admissions = admissions
        self._metrics = metrics

    async def prepare(self, endpoint: Endpoint, raw: bytes, *, tenant: str) -> Prepared:
        """Steps 1 to 3. Raises InvalidRequest, UnknownField, InvalidValue, ModelNotFound."""
        body = check_fields(_parse(raw), endpoint.fields)
        check_caps(body, self._settings)
        model = body.get("model")
        if not isinstance(model, str):
            raise InvalidRequest(
                "'model' is required: a base model or an adapter's name.", param="model"
            )
        target = await self._catalog.resolve(model)
        # As the catalog knows it, not as it was asked for.
        logs.note(adapter=target.engine_name)
        defaults = target.version.manifest.default_sampling if target.version else {}
        filled: dict[str, Any] = {k: v for k, v in defaults.items() if k in endpoint.fields}
        filled |= {k: v for k, v in body.items() if v is not None}
        filled["model"] = target.engine_name
        stream = bool(body.get("stream"))
        return Prepared(endpoint, tenant, target, json.dumps(filled).encode(), stream)

    async def answer(self, request: Prepared) -> Answer:
        """Steps 4 to 7. Raises Overloaded, Unavailable, EngineFault before the first byte; none after."""
        watched = _Watched(request.target, self._metrics)
        try:
            try:
                return await self._attempt(request, watched)
            except _Died as died:
                self._metrics.answers.retries.labels(died.host.model_id).inc()
            try:
                return await self._attempt(request, watched)
            except _Died as died:
                raise died.host.unavailable() from None
        except BaseException as error:
            watched.ended(_outcome_of(error))
            raise

    async def _attempt(self, request: Prepared, watched: "_Watched") -> Answer:
        host = self._engines[request.target.base_model]
        if not host.up:
            await host.wait_up(self._settings.engine_wait_seconds)
        try:
            async with AsyncExitStack() as stack:
                reply = await self._send(host, request, stack)
                streamed = request.stream and reply.status < _BAD_REQUEST
                first = await (anext(reply.body, b"") if streamed else _whole(reply.body))
                await _raise_if_dying(host, reply.status)
                # Of an answer that nobody has read; otherwise it has been said by then how it ended.
                stack.callback(watched.ended, "cancelled")
                release = stack.pop_all().aclose
        except Unavailable:
            host.mark_down()
            raise _Died(host) from None
        if streamed:
            watched.began()
            body = self._relay(host, request, first, reply.body, watched)
        else:
            body = _once(request, reply.status, first, watched)
        return Answer(reply.status, reply.content_type, request.target.engine_name, body, release)

    async def _send(
        self, host: EngineHost, request: Prepared, stack: AsyncExitStack
    ) -> EngineReply:
        version, path = request.target.version, request.endpoint.path
        admitted = self._admissions[host.model_id].admitted(
            request.tenant, request.target.engine_name, needs_seat=version is not None
        )
        place = await stack.enter_async_context(admitted)
        if version is None:
            return await stack.enter_async_context(host.engine.post(path, request.body))
        if host.residency.holds(version):
            await stack.enter_async_context(host.residency.pinned(version))
        else:
            async with place.lent():
                await stack.enter_async_context(host.residency.pinned(version))
        reply = await stack.enter_async_context(host.engine.post(path, request.body))
        if reply.status != _NOT_FOUND or not await host.residency.lost(version):
            return reply
        # The engine was restarted between two looks of the watch and has forgotten the adapter: load and ask again.
        async with place.lent():
            await host.residency.ensure(version)
        return await stack.enter_async_context(host.engine.post(path, request.body))

    async def _relay(
        self,
        host: EngineHost,
        request: Prepared,
        first: bytes,
        rest: AsyncIterator[bytes],
        watched: "_Watched",
    ) -> AsyncIterator[bytes]:
        outcome, meter, last = "cancelled", Meter(), b""
        try:
            async for events in whole_events(first, rest):
                meter.see(events)
                last = events
                yield events
            outcome = "ok"
            if (request.endpoint.last_words or b"") not in last:
                outcome = "engine_error"
                yield error_event(_CUT_SHORT, request.endpoint.dialect, number=meter.events)
        except Unavailable:
            outcome = "engine_error"
            host.mark_down()
            error = host.unavailable()
            yield error_event(error, request.endpoint.dialect, number=meter.events)
        finally:
            watched.ended(outcome, meter.prompt_tokens, meter.generated)


async def collect(answer: Answer) -> bytes:
    """The whole body of an answer that is not streamed; releases it."""
    try:
        return b"".join([chunk async for chunk in answer.body])
    finally:
        await answer.release()


class _Died(Exception):
    """The engine went away before the client was told anything."""

    def __init__(self, host: EngineHost) -> None:
        super().__init__(host.model_id)
        self.host = host


class _Watched:
    """What the metrics are told of one request."""

    def __init__(self, target: Target, metrics: Metrics) -> None:
        self._labels = (target.base_model, "adapter" if target.version else "base")
        self._metrics = metrics
        self._adapter = target.version.adapter if target.version else target.base_model
        self._started = time.monotonic()
        self._first_token_seconds: float | None = None
        self._has_ended = False

    def began(self) -> None:
        """The first event of a stream is here."""
        self._first_token_seconds = time.monotonic() - self._started

    def ended(self, outcome: str, prompt_tokens: int = 0, completion_tokens: int = 0) -> None:
        """Once: by whoever knows first how it ended."""
        if self._has_ended:
            return
        self._has_ended = True
        ending = Ending(
            outcome,
            seconds=time.monotonic() - self._started,
            first_token_seconds=self._first_token_seconds,
            prompt_tokens=prompt_tokens,
            completion_tokens=completion_tokens,
        )
        self._metrics.answers.note(*self._labels, ending)
        # Looked up only now: the adapters that have a tally of their own may have changed meanwhile.
        self._metrics.by_adapter.of(self._adapter).note(ending)


async def _once(
    request: Prepared, status: int, body: bytes, watched: _Watched
) -> AsyncIterator[bytes]:
    meter = Meter()
    if status >= _BAD_REQUEST:
        body = engine_error_body(body, status, request.endpoint.dialect)
    else:
        meter.see(body)
    watched.ended(_outcome(status), meter.prompt_tokens, meter.completion_tokens)
    yield body


async def _whole(body: AsyncIterator[bytes]) -> bytes:
    return b"".join([chunk async for chunk in body])


async def _raise_if_dying(host: EngineHost, status: int) -> None:
    """A 5xx may be the last word of a vLLM whose engine process has died; then it is no answer."""
    if status >= _SERVER_ERROR and not await host.engine.healthy():
        raise host.unavailable()


def _parse(raw: bytes) -> dict[str, Any]:
    try:
        body = json.loads(raw)
    except ValueError as error:
        raise InvalidRequest(f"The body is not valid JSON: {error}.") from error
    except RecursionError as error:
        raise InvalidRequest("The body is nested too deeply.") from error
    if not isinstance(body, dict):
        raise InvalidRequest("The body must be a JSON object.")
    return body


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


_CUT_SHORT = EngineFault("The engine ended the stream before the answer was whole. Try again.")
