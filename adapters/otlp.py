"""Traces by way of OpenTelemetry, sent to a collector over HTTP. The one module that imports it, only where it is on.

What cannot be sent is dropped, from a queue of bounded length and by a thread of its own: a collector that is dead or
slow costs traces and nothing else.
"""

import logging
import random
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import Token
from importlib.metadata import PackageNotFoundError, version
from typing import Self

from adapters.errors import InvalidValue
from adapters.settings import TelemetrySettings
from adapters.traces import (
    NOTHING,
    NOTHING_SAID,
    About,
    Kind,
    Place,
    Span,
    Tracer,
    code_of,
    enter,
    leave,
)

try:
    from opentelemetry import trace
    from opentelemetry.context import Context
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
    from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
    from opentelemetry.sdk.trace.sampling import ALWAYS_ON, ParentBased
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
except ImportError as missing:
    raise InvalidValue(
        f"telemetry.otlp_endpoint is set, and the packages for it are not installed: {missing}. "
        "They come with the extra 'traces'.",
        param="otlp_endpoint",
    ) from missing

#: Spans that wait to be sent; what comes beyond them is dropped.
_MOST_WAITING = 4096
_AT_ONCE = 256
_EVERY_MS = 1000
#: How long the collector may take for what is sent to it at once, further tries included.
_PATIENCE_S = 5.0
#: How long the end of the process may wait for it.
_LAST_S = 2.0
#: How often the log says that it does not answer.
_COMPLAIN_S = 60.0

_KINDS = {
    "internal": trace.SpanKind.INTERNAL,
    "server": trace.SpanKind.SERVER,
    "client": trace.SpanKind.CLIENT,
}
_W3C = TraceContextTextMapPropagator()
_NO_CONTEXT = Context()
_SAMPLED = trace.TraceFlags(trace.TraceFlags.SAMPLED)


class OtlpSpan(Span):
    """One that is told."""

    __slots__ = ("_span", "_token", "_tracer", "_under")

    def __init__(self, tracer: trace.Tracer, span: trace.Span) -> None:
        self._tracer, self._span = tracer, span
        self._under: Context | None = None
        self._token: Token[Span] | None = None

    @property
    def told(self) -> bool:
        return True

    @property
    def trace_id(self) -> str:
        return f"{self._span.get_span_context().trace_id:032x}"

    @property
    def headers(self) -> Mapping[str, str]:
        return _headers(self._span)

    def begin(self, name: str, about: About = NOTHING_SAID, *, kind: Kind = "internal") -> Span:
        if self._under is None:
            self._under = trace.set_span_in_context(self._span, _NO_CONTEXT)
        part = self._tracer.start_span(name, self._under, _KINDS[kind], dict(about))
        return OtlpSpan(self._tracer, part)

    def rename(self, name: str) -> None:
        self._span.update_name(name)

    def note(self, about: About) -> None:
        self._span.set_attributes(about)

    def event(self, name: str, about: About = NOTHING_SAID) -> None:
        self._span.add_event(name, about)

    def link(self, place: Place) -> None:
        self._span.add_link(_context_of(place))

    def fail(self, kind: str) -> None:
        self._span.set_attribute("error.type", kind)
        self._span.set_status(trace.StatusCode.ERROR)

    def end(self) -> None:
        self._span.end()

    def __enter__(self) -> Self:
        self._token = enter(self)
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        assert self._token is not None
        leave(self._token)
        # Not `record_exception`: its message and its frames may quote what users say.
        if error is not None:
            self.fail(code_of(error))
        self._span.end()


class Unsampled(Span):
    """One that is not told, nor are its parts. Logs say its number all the same: the caller may have it, too."""

    __slots__ = ("_token", "_trace_id")

    def __init__(self, trace_id: int) -> None:
        self._trace_id = trace_id
        self._token: Token[Span] | None = None

    @property
    def trace_id(self) -> str:
        return f"{self._trace_id:032x}"

    def begin(
        self,
        name: str,  # noqa: ARG002  nobody is told
        about: About = NOTHING_SAID,  # noqa: ARG002
        *,
        kind: Kind = "internal",  # noqa: ARG002
    ) -> Span:
        return NOTHING

    def __enter__(self) -> Self:
        self._token = enter(self)
        return self

    def __exit__(self, _kind: object, _error: BaseException | None, _trace: object) -> None:
        assert self._token is not None
        leave(self._token)


class OtlpTracer(Tracer):
    """Tells a collector."""

    on = True

    def __init__(self, settings: TelemetrySettings, service: str) -> None:
        self._ids, self._share = _Ids(), settings.sample_ratio
        self._provider = TracerProvider(
            # A caller's own decision counts. Of the others `begin` takes a share; what has a place of its own is told.
            sampler=ParentBased(ALWAYS_ON),
            resource=Resource.create({"service.name": service, "service.version": _own_version()}),
            id_generator=self._ids,
            shutdown_on_exit=False,
        )
        self._exporter: SpanExporter = OTLPSpanExporter(
            endpoint=settings.traces_endpoint,
            headers=settings.headers,
            timeout=_PATIENCE_S,
        )
        sender = BatchSpanProcessor(
            self._exporter,
            max_queue_size=_MOST_WAITING,
            schedule_delay_millis=_EVERY_MS,
            max_export_batch_size=_AT_ONCE,
        )
        self._provider.add_span_processor(sender)
        self._tracer = self._provider.get_tracer("graft")
        logging.getLogger(type(self._exporter).__module__).addFilter(_Seldom())

    def begin(
        self,
        name: str,
        about: About = NOTHING_SAID,
        *,
        kind: Kind = "internal",
        caller: Mapping[str, str] | None = None,
    ) -> Span:
        context = _W3C.extract(caller, _NO_CONTEXT) if caller else _NO_CONTEXT
        # Before there is a span: most that are not told would cost nearly as much as if they were.
        if not context and random.random() >= self._share:  # noqa: S311  no secret
            return Unsampled(self._ids.generate_trace_id())
        span = self._tracer.start_span(name, context, _KINDS[kind], dict(about))
        if not span.is_recording():
            return Unsampled(span.get_span_context().trace_id)
        return OtlpSpan(self._tracer, span)

    def begin_at(
        self,
        place: Place,
        name: str,
        about: About = NOTHING_SAID,
        *,
        since: float | None = None,
    ) -> Span:
        under = trace.set_span_in_context(trace.NonRecordingSpan(_context_of(place)), _NO_CONTEXT)
        began = None if since is None else _nanoseconds(since)
        span = self._tracer.start_span(name, under, attributes=dict(about), start_time=began)
        return OtlpSpan(self._tracer, span)

    def tell(
        self, place: Place, name: str, about: About, *, since: float, failed: str = ""
    ) -> None:
        with self._ids.of(place):
            span = self._tracer.start_span(
                name, _NO_CONTEXT, attributes=dict(about), start_time=_nanoseconds(since)
            )
        told = OtlpSpan(self._tracer, span)
        if failed:
            told.fail(failed)
        told.end()

    def close(self) -> None:
        # Not `shutdown` alone, which goes on for half a minute.
        closing = threading.Thread(target=self._provider.shutdown, daemon=True)
        closing.start()
        closing.join(_LAST_S)
        if closing.is_alive():
            # Sending what still waits fails at once from here on, so that the thread that does it ends.
            self._exporter.shutdown()


class _Seldom(logging.Filter):
    """Lets one complaint of the exporter's pass now and then: it has some for every try."""

    def __init__(self) -> None:
        super().__init__()
        self._quiet_until = 0.0

    def filter(self, _record: logging.LogRecord) -> bool:
        now = time.monotonic()
        if now < self._quiet_until:
            return False
        self._quiet_until = now + _COMPLAIN_S
        return True


class _Ids(RandomIdGenerator):
    """Random numbers for spans, but for those that stand at a known place."""

    def __init__(self) -> None:
        self._here = threading.local()

    @property
    def place(self) -> Place | None:
        """Where what this thread begins will stand; None where that is left to chance."""
        place: Place | None = getattr(self._here, "place", None)
        return place

    @contextmanager
    def of(self, place: Place) -> Iterator[None]:
        """What this thread begins inside the context stands there."""
        self._here.place = place
        try:
            yield
        finally:
            self._here.place = None

    def generate_trace_id(self) -> int:
        return self.place.trace_id if self.place else super().generate_trace_id()

    def generate_span_id(self) -> int:
        return self.place.span_id if self.place else super().generate_span_id()


def _context_of(place: Place) -> trace.SpanContext:
    return trace.SpanContext(place.trace_id, place.span_id, is_remote=True, trace_flags=_SAMPLED)


def _headers(span: trace.Span) -> Mapping[str, str]:
    carried: dict[str, str] = {}
    _W3C.inject(carried, trace.set_span_in_context(span, _NO_CONTEXT))
    return carried


def _nanoseconds(at: float) -> int:
    return int(at * 1e9)


def _own_version() -> str:
    try:
        return version("graft")
    except PackageNotFoundError:
        return "unknown"
