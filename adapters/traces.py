"""What takes how long, for whoever collects traces; where nobody does, nothing happens here and nothing is imported.

Whoever begins something enters its span; whoever works on a part of it begins that under `current()`, and needs nothing
handed to it. As with facts of logs (`logs.about`), what is about a request rides along with it. A span says names,
counts and seconds; never what users say.
"""

from collections.abc import Mapping
from contextvars import ContextVar, Token
from dataclasses import dataclass
from hashlib import sha256
from types import MappingProxyType
from typing import Literal, Self, TypeAlias

from adapters.errors import GraftError
from adapters.settings import TelemetrySettings

About: TypeAlias = Mapping[str, str | int | float | bool]
Kind: TypeAlias = Literal["internal", "server", "client"]
NOTHING_SAID: About = MappingProxyType({})
_NO_HEADERS: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Place:
    """Where something stands among all traces, so that others can stand below it or point to it."""

    trace_id: int
    span_id: int


def place_of_job(job_id: str) -> Place:
    """Every process knows it of a job, without being told: it follows from the id."""
    digest = sha256(job_id.encode()).digest()
    return Place(int.from_bytes(digest[:16]), int.from_bytes(digest[16:24]))


def trace_id_of_job(job_id: str) -> str:
    """As logs and collectors write it."""
    return f"{place_of_job(job_id).trace_id:032x}"


class Span:
    """Something that takes time. This one tells nobody, and is its own part, whatever is begun below it."""

    __slots__ = ()

    @property
    def told(self) -> bool:
        """Whether anybody will hear of it: otherwise nothing need be said of it."""
        return False

    @property
    def trace_id(self) -> str:
        """As logs carry it; empty where nothing is traced."""
        return ""

    @property
    def headers(self) -> Mapping[str, str]:
        """W3C's `traceparent`, and `tracestate` if any, for requests on its behalf."""
        return _NO_HEADERS

    def begin(self, name: str, about: About = NOTHING_SAID, *, kind: Kind = "internal") -> "Span":
        """A part of it."""
        return self

    def rename(self, name: str) -> None:
        """Call it that."""

    def note(self, about: About) -> None:
        """Say more of it."""

    def event(self, name: str, about: About = NOTHING_SAID) -> None:
        """Something has happened meanwhile."""

    def link(self, place: Place) -> None:
        """It has caused what is there."""

    def fail(self, kind: str) -> None:
        """It did not go well; `kind` is a code, not a message, which might quote a user."""

    def end(self) -> None:
        """It is over; to be said once. What is entered ends by being left."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        pass


NOTHING = Span()
_current: ContextVar[Span] = ContextVar("span", default=NOTHING)


def current() -> Span:
    """What is being done; `NOTHING` where that is not traced."""
    return _current.get()


def enter(span: Span) -> Token[Span]:
    """Make it the current one, until `leave`."""
    return _current.set(span)


def leave(token: Token[Span]) -> None:
    """Go back to what was the current one."""
    _current.reset(token)


def code_of(error: BaseException) -> str:
    """What a span says of an error: our own code, or the name of its class."""
    return error.code if isinstance(error, GraftError) else type(error).__name__


class Tracer:
    """Begins what is not a part of anything in this process. This one tells nobody."""

    #: Whether anybody is told.
    on = False

    def begin(
        self,
        name: str,
        about: About = NOTHING_SAID,
        *,
        kind: Kind = "internal",
        caller: Mapping[str, str] | None = None,
    ) -> Span:
        """For a `caller` who says so in W3C's headers, below its own; a sample of the others."""
        return NOTHING

    def begin_at(
        self, place: Place, name: str, about: About = NOTHING_SAID, *, since: float | None = None
    ) -> Span:
        """Below that place, always. `since`: in Unix seconds, where it began earlier."""
        return NOTHING

    def tell(
        self, place: Place, name: str, about: About, *, since: float, failed: str = ""
    ) -> None:
        """What has stood at that place since then, and is over."""

    def close(self) -> None:
        """Send what is not sent, if that is possible within two seconds."""


def open_tracer(settings: TelemetrySettings, service: str) -> Tracer:
    """Tells the collector that is configured; `service` is who speaks.

    Raises:
        InvalidValue: there is one, and the packages for it are not installed.
    """
    if not settings.on:
        return Tracer()
    # A quarter of a second, and packages that not every installation has.
    from adapters.otlp import OtlpTracer  # noqa: PLC0415

    return OtlpTracer(settings, service)
