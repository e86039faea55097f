"""Somebody who collects traces: a real HTTP server that understands OTLP, and is as slow or as rude as a test wants."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


@dataclass(frozen=True)
class Told:
    """A span as it arrived; ids in hexadecimal, times in nanoseconds."""

    service: str
    name: str
    kind: int
    trace_id: str
    span_id: str
    parent_id: str
    start: int
    end: int
    about: dict[str, Any]
    events: dict[str, dict[str, Any]]
    links: list[tuple[str, str]]
    failed: bool


@dataclass
class Collector:
    """What it was sent: bodies as they came, and spans."""

    port: int = 0
    #: Before it answers.
    seconds: float = 0.0
    status: int = 200
    bodies: list[bytes] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    spans: list[Told] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def named(self, name: str) -> list[Told]:
        return [span for span in self.spans if span.name == name]

    def wait_for(self, *names: str, seconds: float = 15.0) -> None:
        """Until there is a span of each of these names."""
        end = time.monotonic() + seconds
        while missing := [name for name in names if not self.named(name)]:
            there = sorted(span.name for span in self.spans)
            assert time.monotonic() < end, f"nobody told of {missing}, only of {there}"
            time.sleep(0.05)

    def take(self, path: str, headers: dict[str, str], body: bytes) -> None:
        assert path == "/v1/traces", path
        self.headers.append(headers)
        self.bodies.append(body)
        told = ExportTraceServiceRequest.FromString(body)
        for group in told.resource_spans:
            service = _values(group.resource.attributes)["service.name"]
            for scope in group.scope_spans:
                self.spans += [_span(service, one) for one in scope.spans]


@contextmanager
def collecting(**how: Any) -> Iterator[Collector]:
    """A collector on a free port, until the context is left."""
    collector = Collector(**how)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            time.sleep(collector.seconds)
            collector.take(self.path, {k.lower(): v for k, v in self.headers.items()}, body)
            try:
                self.send_response(collector.status)
                self.send_header("content-length", "0")
                self.end_headers()
            except OSError:
                pass  # whoever sent it has lost patience

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        # Who sleeps in a handler is not waited for.
        daemon_threads = True
        block_on_close = False

    with Server(("127.0.0.1", 0), Handler) as server:
        collector.port = server.server_port
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield collector
        finally:
            server.shutdown()
            thread.join()


def _span(service: str, one: Any) -> Told:
    return Told(
        service=service,
        name=one.name,
        kind=one.kind,
        trace_id=one.trace_id.hex(),
        span_id=one.span_id.hex(),
        parent_id=one.parent_span_id.hex(),
        start=one.start_time_unix_nano,
        end=one.end_time_unix_nano,
        about=_values(one.attributes),
        events={event.name: _values(event.attributes) for event in one.events},
        links=[(link.trace_id.hex(), link.span_id.hex()) for link in one.links],
        failed=one.status.code == 2,
    )


def _values(attributes: Any) -> dict[str, Any]:
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in attributes}
