"""The real service on a real port, with a fake engine behind a real socket and a real ledger."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import uvicorn

from adapters.ledger import Ledger, open_ledger
from adapters.records import Version
from adapters.settings import (
    BaseModelSettings,
    LedgerSettings,
    QueueSettings,
    QuotaSettings,
    TelemetrySettings,
)
from service.app import Configuration, create_app
from service.listening import http_options
from service.settings import EngineSettings, ServiceSettings, WebhookSettings
from service.tokens.process import Tokens
from tests.support.fake_engine import FakeEngine
from tests.support.samples import adapter_directory, manifest, new_job, render

BASE = "tiny-base"


@dataclass
class Running:
    """A service under test, and a second hand in its ledger: what the trainer would do."""

    http: httpx.AsyncClient
    engine: FakeEngine
    ledger: Ledger
    home: Path
    url: str

    def publish(self, adapter: str, *, promote: bool = True, base_model: str = BASE) -> Version:
        """Train nothing, publish something."""
        new = new_job(adapter, base_model)
        self.ledger.jobs.submit(new, render=render)
        while True:
            job = self.ledger.jobs.claim(
                worker="test", base_model=base_model, lease_seconds=60, max_losses=9
            )
            assert job is not None
            if job.id == new.id:
                break
        source = adapter_directory(self.home / "made" / job.id, content=job.id.encode())
        return self.ledger.registry.publish(job, source, manifest(job), promote=promote)

    async def up(self) -> None:
        """Wait until the service knows that its engine answers."""
        await until(self._ready)

    async def _ready(self) -> bool:
        return (await self.http.get("/readyz")).status_code == 200


async def until(condition, timeout: float = 10.0) -> None:
    """Wait for an awaitable condition."""
    async with asyncio.timeout(timeout):
        while not await condition():
            await asyncio.sleep(0.02)


@asynccontextmanager
async def serving(
    home: Path,
    *,
    webhooks: WebhookSettings | None = None,
    tokens: Tokens | None = None,
    queue: QueueSettings | None = None,
    quotas: QuotaSettings | None = None,
    ledger: LedgerSettings | None = None,
    telemetry: TelemetrySettings | None = None,
    **settings: object,
) -> AsyncIterator[tuple[httpx.AsyncClient, str]]:
    configuration = Configuration(
        ledger=ledger or ledger_settings(home),
        service=ServiceSettings(**{"drain_seconds": 1, **settings}),
        engine=EngineSettings(max_cpu_loras=8, max_lora_rank=64),
        webhooks=webhooks or WebhookSettings(),
        queue=queue or QueueSettings(),
        quotas=quotas or QuotaSettings(),
        telemetry=telemetry or TelemetrySettings(),
    )
    listener = socket.create_server(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    server = uvicorn.Server(
        uvicorn.Config(
            create_app(configuration, tokens=tokens), **http_options(configuration.service)
        )
    )
    task = asyncio.create_task(server.serve(sockets=[listener]))
    async with httpx.AsyncClient(base_url=url, timeout=30) as client:
        while not server.started:
            await asyncio.sleep(0.01)
        yield client, url
    server.should_exit = True
    await task
    listener.close()


def ledger_settings(home: Path) -> LedgerSettings:
    return LedgerSettings(home=home, base_models=(BaseModelSettings(id=BASE, source="/nowhere"),))


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Running]:
    settings = ledger_settings(tmp_path)
    engine = FakeEngine(settings.engine_socket(BASE), BASE)
    await engine.start()
    ledger = open_ledger(settings)
    async with serving(tmp_path, engine_wait_seconds=0.2) as (client, url):
        running = Running(client, engine, ledger, tmp_path, url)
        await running.up()
        yield running
    ledger.close()
    await engine.kill()
