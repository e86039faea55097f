"""The demo model in a real engine, started as ours are, and the service in front of it; a client's two ways in.

All three are processes of their own, and share what cores there are. So the client reads bytes and the time, and looks
at what it has got only when it is over.
"""

import asyncio
import json
import re
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp

from adapters.layers import LinearLayers, read_layers
from adapters.ledger import Ledger, open_ledger
from adapters.settings import DEMO_MODEL, LedgerSettings
from bench.demo import MODELS, demo_model
from bench.measure import Settings
from bench.processes import configure, free_port, python, running, until_ready

#: For the engine to start, and for any one answer.
PATIENCE = 300.0
COMPLETIONS = "/v1/completions"
#: Lines of the service's log: when, and what of which version.
_LOADED = re.compile(r"^(\S+ \S+) .*: loaded (\S+) in (\d+) ms$", re.MULTILINE)
_VERIFIED = re.compile(r"^(\S+ \S+) .*: (\S+) is verified: ", re.MULTILINE)
_LOG_TIME = "%Y-%m-%d %H:%M:%S,%f"
_END_OF_EVENT = b"\n\n"


@dataclass(frozen=True, slots=True)
class Streamed:
    """One streamed answer: when its bytes came, by the client's clock, and what they were."""

    began: float
    arrivals: tuple[float, ...]
    received: bytes

    @property
    def first(self) -> float:
        """Seconds until the first bytes, which come with the first token."""
        return self.arrivals[0] - self.began

    @property
    def gaps(self) -> list[float]:
        """Seconds from arrival to arrival."""
        pairs = zip(self.arrivals, self.arrivals[1:], strict=False)
        return [after - before for before, after in pairs]

    @property
    def text(self) -> str:
        """Of a completion, all of it."""
        return "".join(choice["text"] for event in self._events() for choice in event["choices"])

    @property
    def tokens(self) -> int:
        """That were generated, as the engine counts them."""
        counted: int = self._events()[-1]["usage"]["completion_tokens"]
        return counted

    def _events(self) -> list[dict[str, Any]]:
        told = self.received.removesuffix(_END_OF_EVENT).split(_END_OF_EVENT)
        assert told.pop() == b"data: [DONE]", self.received[-300:]
        return [json.loads(event.removeprefix(b"data: ")) for event in told]


@dataclass(frozen=True, slots=True)
class Side:
    """One way to ask, and the process that answers there."""

    session: aiohttp.ClientSession
    url: str
    pid: int

    async def stream(self, path: str, body: Mapping[str, Any]) -> Streamed:
        """The answer to a request, which must be 200 and whole. Greedy, and not ended by the model."""
        sent = json.dumps(
            {
                "temperature": 0,
                "ignore_eos": True,
                "stream": True,
                "stream_options": {"include_usage": True},
                **body,
            }
        ).encode()
        headers = {"content-type": "application/json"}
        arrivals, chunks = [], []
        began = time.perf_counter()
        async with self.session.post(self.url + path, data=sent, headers=headers) as response:
            async for chunk in response.content.iter_any():
                arrivals.append(time.perf_counter())
                chunks.append(chunk)
        streamed = Streamed(began, tuple(arrivals), b"".join(chunks))
        assert response.status == 200, streamed.received
        return streamed

    async def complete(self, model: str, prompt: list[int], tokens: int) -> Streamed:
        """So many tokens more; asserts that they are."""
        body = {"model": model, "prompt": prompt, "max_tokens": tokens}
        streamed = await self.stream(COMPLETIONS, body)
        assert streamed.tokens == tokens, (streamed.tokens, tokens)
        return streamed


@dataclass(frozen=True, slots=True)
class RealStage:
    """Both ways, and what lies behind them."""

    ours: Side
    engine: Side
    engine_socket: Path
    ledger: Ledger
    layers: LinearLayers
    folder: Path
    service_log: Path

    def loads(self) -> list[tuple[str, int]]:
        """What the service has had loaded so far, with the milliseconds that each took."""
        return loads_in(self.service_log.read_text())

    def probes(self) -> list[float]:
        """Milliseconds from the load of a version to the end of its comparison, for each that was compared."""
        return probes_in(self.service_log.read_text())


def loads_in(log: str) -> list[tuple[str, int]]:
    """The loads that a service's log tells of."""
    return [(name, int(took)) for _, name, took in _LOADED.findall(log)]


def probes_in(log: str) -> list[float]:
    """The comparisons that it tells of, in milliseconds since the first load of their version."""
    loaded = {name: _time(at) for at, name, _ in reversed(_LOADED.findall(log))}
    ended = {name: _time(at) for at, name in _VERIFIED.findall(log)}
    return [1e3 * (at - loaded[name]).total_seconds() for name, at in ended.items()]


@contextmanager
def on_real_stage(
    settings: Settings, **environment: str
) -> Iterator[tuple[RealStage, asyncio.Runner]]:
    """The same for a benchmark, which is no coroutine itself: with what runs those that ask something."""
    with asyncio.Runner() as runner:
        context = real_stage(settings, **environment)
        stage = runner.run(context.__aenter__())
        try:
            yield stage, runner
        finally:
            runner.run(context.__aexit__(None, None, None))


@asynccontextmanager
async def real_stage(settings: Settings, **environment: str) -> AsyncIterator[RealStage]:
    """Both up; `environment` is for both of them."""
    demo_model(settings)
    with tempfile.TemporaryDirectory(prefix="graft-bench-") as directory:
        home = Path(directory)
        (home / "models").symlink_to(settings.home / "models")
        ledger = LedgerSettings(home=home, base_models=MODELS, database_url="")
        config = configure(ledger, home)
        port, log = free_port(), home / "service.log"
        engine = python(config, "service.engine", DEMO_MODEL, **environment)
        service = python(config, "service", "--port", str(port), **environment)
        opened = open_ledger(ledger)
        socket = ledger.engine_socket(DEMO_MODEL)
        try:
            with (
                running(engine, home / "engine.log", grace=20) as engine_process,
                running(service, log, grace=20) as service_process,
            ):
                async with (
                    aiohttp.ClientSession(timeout=_PATIENT) as tcp,
                    aiohttp.ClientSession(
                        connector=aiohttp.UnixConnector(str(socket), limit=0), timeout=_PATIENT
                    ) as unix,
                ):
                    ours = Side(tcp, f"http://127.0.0.1:{port}", service_process.pid)
                    await until_ready(
                        tcp, ours.url, engine_process, service_process, patience=PATIENCE
                    )
                    yield RealStage(
                        ours,
                        Side(unix, "http://engine", engine_process.pid),
                        socket,
                        opened,
                        read_layers(settings.home / "models" / DEMO_MODEL) or {},
                        home,
                        log,
                    )
        finally:
            opened.close()


def _time(told: str) -> datetime:
    return datetime.strptime(told, _LOG_TIME).replace(tzinfo=UTC)


_PATIENT = aiohttp.ClientTimeout(total=PATIENCE)
