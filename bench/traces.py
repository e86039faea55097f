"""What it costs a request that it may be traced: while nobody is told, and when a share of the requests is."""

import asyncio
import http.server
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from adapters.settings import TelemetrySettings
from adapters.traces import NOTHING, current, open_tracer
from bench.measure import Settings, seconds, spread, take_turns
from bench.table import Row, Table
from service.metrics import Metrics
from service.middleware import RequestIds, Traces
from service.reckoning import Reckoning

REQUESTS = 4000
SHARES = (0.01, 1.0)
_SCOPE = {"type": "http", "method": "POST", "path": "/v1/chat/completions", "headers": []}


def run(settings: Settings) -> Table:
    """Against requests that nothing asks for spans."""
    with sink() as port:
        contestants: dict[str, Callable[[], float]] = {
            "plain": lambda: _turn(RequestIds(plain)),
            "off": lambda: _turn(RequestIds(traced)),
        }
        for share in SHARES:
            contestants[f"{share:.0%}"] = partial(_told, port, share)
        turns = take_turns(settings.rounds, contestants, warm=1)
    off = [turn["off"] for turn in turns]
    rows = [_row("off; peer: no spans in the code", off, [turn["plain"] for turn in turns])]
    for share in SHARES:
        name = f"{share:.0%}"
        mine = [turn[name] for turn in turns]
        rows.append(_row(f"on, {name} are told; peer: off", mine, off))
    return Table(
        name="traces",
        what=(
            f"microseconds of what a request to a model costs beside the model: an id, the reckoning of its metrics, and "
            f"where traces are on the span around it, one for its place and one for the call with its event. {REQUESTS} "
            f"requests a turn, in one process; the collector is another, which throws away what it gets"
        ),
        rows=rows,
    )


async def plain(_scope: Scope, _receive: Receive, send: Send) -> None:
    """A request as it would be without any of this."""
    reckoning = Reckoning(METRICS, "base", "adapter", "bot")
    reckoning.began()
    reckoning.ended("ok", 10, 20)
    await _reply(send)


async def traced(_scope: Scope, _receive: Receive, send: Send) -> None:
    """The same, with the spans that each has."""
    reckoning = Reckoning(METRICS, "base", "adapter", "bot")
    with current().begin("graft.admission"):
        pass
    reckoning.asks("chat", "bot@1")
    reckoning.began()
    reckoning.ended("ok", 10, 20)
    await _reply(send)


async def _reply(send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b""})


async def _receive() -> Message:
    return {"type": "http.request", "body": b""}


async def _send(_message: Message) -> None:
    pass


METRICS = Metrics()


def _told(port: int, share: float) -> float:
    """With a tracer of its own: nobody pays for what another has left to be sent."""
    telemetry = TelemetrySettings(otlp_endpoint=f"http://127.0.0.1:{port}", sample_ratio=share)
    tracer = open_tracer(telemetry, "bench")
    took = _turn(RequestIds(Traces(traced, tracer)))
    tracer.close()
    return took


def _turn(app: ASGIApp) -> float:
    """Microseconds of one request."""

    async def ask() -> None:
        for _ in range(REQUESTS):
            await app({**_SCOPE, "state": {}}, _receive, _send)

    assert current() is NOTHING
    return 1e6 * seconds(lambda: asyncio.run(ask())) / REQUESTS


def _row(name: str, ours: list[float], peer: list[float]) -> Row:
    more = spread([mine - other for mine, other in zip(ours, peer, strict=True)])
    note = f"{more.median:+.2f} µs ({more.low:+.2f}..{more.high:+.2f})"
    return Row(name=name, unit="µs", better="lower", ours=ours, peer=peer, note=note)


@contextmanager
def sink() -> Iterator[int]:
    """A collector in a process of its own; its port. It ends with its standard input."""
    command = [sys.executable, "-m", "bench.traces"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline())
        finally:
            process.kill()


class _Sink(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


if __name__ == "__main__":
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Sink) as server:
        print(server.server_port, flush=True)
        server.serve_forever()
