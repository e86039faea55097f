"""R16: thousands of requests made from the published document, with keys: no 5xx, no answer that it does not describe.

The short form, without keys, is tests/integration/service/test_openapi.py.
"""

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings, strategies as st

from adapters.keys import NewKey, Scope
from adapters.ledger import open_ledger
from tests.integration.service.conftest import BASE, ledger_settings, serving
from tests.support.fake_engine import FakeEngine
from tests.support.published import PROMISED, description

SCHEMA = description(auth=True)
OPERATIONS = [result.ok() for result in SCHEMA.get_all_operations()]
#: Requests of all operations together, at the least.
CASES = 3000


class House(threading.Thread):
    """The service and its engine, in an event loop of their own; `key` has every scope."""

    def __init__(self, home: Path) -> None:
        super().__init__(daemon=True)
        self._home = home
        self._up = threading.Event()
        self.url = self.key = ""

    def run(self) -> None:
        asyncio.run(self._serve())

    def open(self) -> None:
        self.start()
        assert self._up.wait(60)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._closing.set)
        self.join(30)

    async def _serve(self) -> None:
        self._loop, self._closing = asyncio.get_running_loop(), asyncio.Event()
        engine = FakeEngine(ledger_settings(self._home).engine_socket(BASE), BASE)
        await engine.start()
        async with serving(self._home, engine_wait_seconds=5, auth=True) as (_, self.url):
            ledger = open_ledger(ledger_settings(self._home))
            self.key = ledger.keys.make(NewKey(tenant="fuzz", scopes=tuple(Scope))).secret
            ledger.close()
            self._up.set()
            await self._closing.wait()
        await engine.kill()


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    house = House(tmp_path_factory.mktemp("fuzz"))
    house.open()
    yield house
    house.close()


def test_it_is_enough(request: pytest.FixtureRequest) -> None:
    assert len(OPERATIONS) * request.config.getoption("--cases") >= CASES


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda it: f"{it.method} {it.path}")
def test_every_answer_is_one_that_was_published(
    house: House, operation: schemathesis.APIOperation, request: pytest.FixtureRequest
) -> None:
    @settings(
        max_examples=request.config.getoption("--cases"),
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.explicit, Phase.generate),
        database=None,
    )
    @given(st.data())
    def ask(data: st.DataObject) -> None:
        case = data.draw(operation.as_strategy())
        case.headers["authorization"] = f"Bearer {house.key}"
        case.call_and_validate(base_url=house.url, timeout=60, checks=PROMISED)

    ask()


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda it: f"{it.method} {it.path}")
def test_without_a_key_it_is_not_answered(
    house: House, operation: schemathesis.APIOperation
) -> None:
    if operation.path in {"/healthz", "/readyz"}:
        return
    answer = httpx.request(operation.method, house.url + operation.path.replace("{", "x"))
    assert answer.status_code == 401
