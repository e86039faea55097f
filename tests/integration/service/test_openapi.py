"""Whatever is sent, the service answers as its published OpenAPI document says, and never with a 5xx."""

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import schemathesis
from hypothesis import HealthCheck, settings

from tests.integration.service.conftest import BASE, ledger_settings, serving
from tests.support.fake_engine import FakeEngine
from tests.support.published import PROMISED, description


class House(threading.Thread):
    """The service and its engine, in an event loop of their own."""

    def __init__(self, home: Path) -> None:
        super().__init__(daemon=True)
        self._home = home
        self._up = threading.Event()
        self.url = ""

    def run(self) -> None:
        asyncio.run(self._serve())

    def open(self) -> str:
        self.start()
        assert self._up.wait(30)
        return self.url

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._closing.set)
        self.join(30)

    async def _serve(self) -> None:
        self._loop, self._closing = asyncio.get_running_loop(), asyncio.Event()
        engine = FakeEngine(ledger_settings(self._home).engine_socket(BASE), BASE)
        await engine.start()
        async with serving(self._home, engine_wait_seconds=5) as (_, self.url):
            self._up.set()
            await self._closing.wait()
        await engine.kill()


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    house = House(tmp_path_factory.mktemp("openapi"))
    yield house.open()
    house.close()


schema = description(auth=False)


@schema.parametrize()
@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
def test_every_answer_is_one_that_was_published(case: schemathesis.Case, url: str) -> None:
    case.call_and_validate(base_url=url, timeout=30, checks=PROMISED)
