"""The story of one request to a model, top to bottom. Design, section 4, in code.

1. The body is parsed once and its names are checked.
2. `model` becomes a version, from memory; a canary gets its share of the users.
3. What the request leaves open is filled from the defaults of adapter, version and base model; then it is looked at how
   much is asked for.
4. Within what its tenant may ask for in a minute, or a 429. Admission: a place in front of the engine in fair order,
   or a 429.
5. Residency: the version is loaded if it is not, while others use the place, and pinned.
6. The body goes to the engine; bytes come back as they are. Those of a version's first answers wait until the engine
   has been compared with what training saw. Where the engine dies before the first of them has been passed on, the
   request is sent once more; after it, the stream ends with an error. A shadow gets the same request, once the answer
   has begun.
7. Whoever leaves, cancels: place, pin and generation are released when the response ends, however it ends.
"""

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from functools import partial
from http import HTTPStatus
from typing import Any

from adapters import logs
from adapters.errors import (
    EngineFault,
    InvalidRequest,
    InvalidValue,
    StoreUnavailable,
    Unavailable,
)
from adapters.records import DEFAULT_TENANT, JsonObject
from service.admission import Admission
from service.catalog import Catalog, Target
from service.defaults import fill
from service.engine.protocol import EngineReply
from service.engines import EngineHost, Engines
from service.errors import engine_error_body, error_event, stopping
from service.exchange import NOTHING, Answer, Prepared, collect
from service.loops import mark, mark_events
from service.metrics import Metrics
from service.rates import Rates, foresee
from service.reckoning import Reckoning, outcome_of_error, outcome_of_status
from service.relay import Meter, whole_events
from service.schemas.caps import check_caps
from service.schemas.endpoints import Endpoint
from service.schemas.media import check_media
from service.schemas.sampling import check_fields
from service.settings import ServiceSettings
from service.shadow import Shadows
from service.split import anybody, ticket_of


class Generator:
    """Answers requests to models."""

    def __init__(  # noqa: PLR0913  what each step needs
        self,
        *,
        settings: ServiceSettings,
        catalog: Catalog,
        engines: Engines,
        admissions: Mapping[str, Admission],
        shadows: Shadows,
        metrics: Metrics,
        rates: Rates,
    ) -> None:
        self._settings = settings
        self._rates = rates
        self._catalog = catalog
        self._engines = engines
        self._admissions = admissions
        self._shadows = shadows
        self._metrics = metrics

    async def prepare(
        self, endpoint: Endpoint, raw: bytes, *, tenant: str, user: str | None = None
    ) -> Prepared:
        """Steps 1 to 3. `user` is whose request it is, where the body does not say.

        Raises InvalidRequest, UnknownField, InvalidValue, ModelNotFound.
        """
        asked = _parse(raw)
        body = check_fields(asked, endpoint.fields)
        check_media(body)
        model = body.get("model")
        if not isinstance(model, str):
            raise InvalidRequest(
                "'model' is required: a base model or an adapter's name.", param="model"
            )
        ticket = ticket_of(asked, endpoint) or user or anybody()
        target = await self._catalog.resolve(model, ticket)
        # As the catalog knows it, not as it was asked for.
        logs.note(adapter=target.engine_name)
        prepared = self._prepared(endpoint, tenant, body, target)
        if target.shadow is None or not endpoint.generates:
            return prepared
        silent = {k: v for k, v in body.items() if k not in {"stream", "stream_options"}}
        # Its own defaults may be too much; that is no reason to refuse the request.
        with suppress(InvalidValue):
            shadow = self._prepared(endpoint, tenant, silent, target.shadow)
            return replace(prepared, shadow=replace(shadow, kind="shadow"))
        return prepared

    def check_defaults(self, sampling: JsonObject) -> None:
        """Raise InvalidValue where defaults ask for more than a request may: each would be refused."""
        check_caps(sampling, self._settings)

    def _prepared(
        self, endpoint: Endpoint, tenant: str, body: JsonObject, target: Target
    ) -> Prepared:
        filled = fill(endpoint.fields, body, *target.defaults)
        check_caps(filled.body, self._settings)
        sent = filled.body | {"model": target.engine_name}
        if endpoint.salted and tenant != DEFAULT_TENANT:
            # What the engine keeps of one tenant's prompts does not speed up another's, who could tell by it.
            sent["cache_salt"] = tenant
        sent_bytes = _encoded(sent)
        return Prepared(
            endpoint,
            tenant,
            target,
            sent_bytes,
            stream=bool(body.get("stream")),
            foreseen=foresee(sent, len(sent_bytes)) if endpoint.generates else NOTHING,
            guarded=filled.guarded,
            kind="adapter" if target.version else "base",
        )

    async def answer(self, request: Prepared) -> Answer:
        """Steps 4 to 7. Raises Overloaded, Unavailable, EngineFault before the first byte; none after."""
        reckoning = self._reckoning(request)
        try:
            self._rates.admit(request.foreseen)
            reckoning.settle = partial(self._rates.settle, request.foreseen)
            try:
                return await self._attempt(request, reckoning)
            except _Died as died:
                self._metrics.answers.retries.labels(died.host.model_id).inc()
            try:
                return await self._attempt(request, reckoning)
            except _Died as died:
                raise died.host.unavailable() from None
        except BaseException as error:
            reckoning.ended(outcome_of_error(error))
            raise

    def _reckoning(self, request: Prepared) -> Reckoning:
        target = request.target
        adapter = target.version.adapter if target.version else target.base_model
        return Reckoning(self._metrics, target.base_model, request.kind, adapter)

    async def _attempt(self, request: Prepared, reckoning: Reckoning) -> Answer:
        host = self._engines[request.target.base_model]
        if not host.up:
            await host.wait_up(self._settings.engine_wait_seconds)
        try:
            async with AsyncExitStack() as stack:
                reply = await self._send(host, request, reckoning, stack)
                streamed = request.stream and reply.status < HTTPStatus.BAD_REQUEST
                first = await (anext(reply.body, b"") if streamed else _whole(reply.body))
                await _raise_if_dying(host, reply.status)
                # Of an answer that nobody has read; otherwise it has been said by then how it ended.
                stack.callback(reckoning.ended, "cancelled")
                if request.endpoint.generates and reply.status < HTTPStatus.BAD_REQUEST:
                    host.spoke()
                release = stack.pop_all().aclose
        except StoreUnavailable:
            raise  # the engine has nothing to do with it, and goes on answering others
        except Unavailable:
            host.mark_down()
            raise _Died(host) from None
        if request.shadow is not None:
            self._send_shadow(request.shadow)
        name, meter = request.target.engine_name, Meter()
        if not streamed:
            body = _once(request, reply.status, first, reckoning)
            return Answer(reply.status, reply.content_type, name, body, release)
        reckoning.began()
        body = self._relay(host, request, first, reply.body, reckoning, meter)
        return Answer(
            reply.status,
            reply.content_type,
            name,
            body,
            release,
            lambda: error_event(stopping(), request.endpoint.dialect, number=meter.events),
        )

    async def _send(
        self, host: EngineHost, request: Prepared, reckoning: Reckoning, stack: AsyncExitStack
    ) -> EngineReply:
        version, name = request.target.version, request.target.engine_name
        admitted = self._admissions[host.model_id].admitted(
            request.tenant, name, needs_seat=version is not None
        )
        place = await stack.enter_async_context(admitted)

        async def ask() -> EngineReply:
            headers = reckoning.asks(request.endpoint.operation, name)
            asked = host.engine.post(request.endpoint.path, request.body, headers)
            return await stack.enter_async_context(asked)

        if version is None:
            return await ask()
        if host.residency.holds(version):
            await stack.enter_async_context(host.residency.pinned(version))
            reply = await ask()
        else:
            async with place.lent():
                await stack.enter_async_context(host.residency.pinned(version))
            reply = await ask()
            # The engine may have been compared meanwhile; nothing leaves before that has ended well.
            await host.residency.ensure(version)
        if reply.status != HTTPStatus.NOT_FOUND or not await host.residency.lost(version):
            return reply
        # The engine was restarted between two looks of the watch and has forgotten the adapter: load and ask again.
        async with place.lent():
            await host.residency.ensure(version)
        return await ask()

    async def _relay(
        self,
        host: EngineHost,
        request: Prepared,
        first: bytes,
        rest: AsyncIterator[bytes],
        reckoning: Reckoning,
        meter: Meter,
    ) -> AsyncIterator[bytes]:
        outcome, last = "cancelled", b""
        try:
            async for events in whole_events(first, rest):
                meter.see(events)
                last = mark_events(events, reckoning.looped) if request.guarded else events
                yield last
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
            reckoning.ended(outcome, meter.prompt_tokens, meter.generated)

    def _send_shadow(self, shadow: Prepared) -> None:
        """Only where nobody waits for the engine, and a place is to spare, and a seat."""
        base_model, name = shadow.target.base_model, shadow.target.engine_name
        if not self._admissions[base_model].has_room_for(name):
            self._shadows.drop(base_model)
            return

        async def unheard() -> None:
            await collect(await self.answer(shadow))

        self._shadows.send(base_model, unheard)


class _Died(Exception):
    """The engine went away before the client was told anything."""

    def __init__(self, host: EngineHost) -> None:
        super().__init__(host.model_id)
        self.host = host


async def _once(
    request: Prepared, status: int, body: bytes, reckoning: Reckoning
) -> AsyncIterator[bytes]:
    meter = Meter()
    if status >= HTTPStatus.BAD_REQUEST:
        body = engine_error_body(body, status, request.endpoint.dialect)
    else:
        meter.see(body)
        body = mark(body, reckoning.looped) if request.guarded else body
    reckoning.ended(outcome_of_status(status), meter.prompt_tokens, meter.completion_tokens)
    yield body


async def _whole(body: AsyncIterator[bytes]) -> bytes:
    return b"".join([chunk async for chunk in body])


async def _raise_if_dying(host: EngineHost, status: int) -> None:
    """A 5xx may be the last word of a vLLM whose engine process has died; then it is no answer."""
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR and not await host.engine.healthy():
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


def _encoded(body: JsonObject) -> bytes:
    """As JSON has it: Python reads NaN, 1e999 and half surrogate pairs, which an engine may fail at."""
    try:
        return json.dumps(body, ensure_ascii=False, allow_nan=False).encode()
    except ValueError as error:
        raise InvalidRequest(f"The body has a value that is not JSON: {error}.") from error


_CUT_SHORT = EngineFault("The engine ended the stream before the answer was whole. Try again.")
