"""The service in front of a fake engine, each in a process of its own, and a client's two ways to the same answer.

In the client's process they would share its event loop, and every figure would be the sum of all three.
"""

import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from adapters.ledger import open_ledger
from adapters.settings import BaseModelSettings, LedgerSettings
from bench.processes import configure, free_port, python, running, until_ready
from tests.support.samples import adapter_directory, manifest, new_job, render

BASE = "bench-base"
PATIENCE = 60.0
CHAT = "/v1/chat/completions"


@dataclass(frozen=True, slots=True)
class Way:
    """One way to ask: through the service, or the engine itself."""

    session: aiohttp.ClientSession
    url: str
    model: str

    async def ask(self, said: str) -> tuple[float, str]:
        """Seconds until the whole reply is here, and the reply's text."""
        began = time.perf_counter()
        async with self.session.post(self.url + CHAT, json=self._body(said)) as response:
            answer = await response.json()
        took = time.perf_counter() - began
        assert response.status == 200, answer
        return took, str(answer["choices"][0]["message"]["content"])

    async def stream(self, said: str) -> tuple[float, int]:
        """Seconds until the stream has ended, and how many chunks it had."""
        body = self._body(said) | {"stream": True}
        began = time.perf_counter()
        async with self.session.post(self.url + CHAT, json=body) as response:
            received = await response.read()
        took = time.perf_counter() - began
        assert received.endswith(b"data: [DONE]\n\n"), received[-200:]
        return took, received.count(b"data: ") - 1

    def _body(self, said: str) -> dict[str, object]:
        return {"model": self.model, "messages": [{"role": "user", "content": said}]}


@asynccontextmanager
async def staged() -> AsyncIterator[tuple[Way, Way]]:
    """Both ways to one adapter: ours, which knows it by name, and the engine's, which knows its version."""
    with tempfile.TemporaryDirectory(prefix="graft-bench-") as directory:
        home = Path(directory)
        ledger = LedgerSettings(
            home=home,
            base_models=(BaseModelSettings(id=BASE, source="/nowhere"),),
            database_url="",
        )
        config = configure(ledger, home)
        version = _publish(ledger)
        engine_socket = ledger.engine_socket(BASE)
        engine = python(config, "bench.fake_engine_server", str(engine_socket), BASE)
        port = free_port()
        service = python(config, "service", "--port", str(port))
        with (
            running(engine, home / "engine.log"),
            running(service, home / "service.log"),
        ):
            async with (
                aiohttp.ClientSession() as http,
                aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(engine_socket))) as unix,
            ):
                ours = Way(http, f"http://127.0.0.1:{port}", "bench")
                await until_ready(ours.session, ours.url, patience=PATIENCE)
                await ours.ask("Come in.")  # the service has the engine load the adapter
                yield ours, Way(unix, "http://engine", version)


def _publish(settings: LedgerSettings) -> str:
    """Train nothing, publish something; its name and number."""
    ledger = open_ledger(settings)
    try:
        ledger.jobs.submit(new_job("bench", BASE), render=render)
        job = ledger.jobs.claim(worker="bench", base_model=BASE, lease_seconds=60, max_losses=1)
        assert job is not None
        source = adapter_directory(settings.home / "made")
        return ledger.registry.publish(job, source, manifest(job), promote=True).name
    finally:
        ledger.close()
