import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from adapters.errors import Unavailable
from adapters.ledger import open_ledger
from adapters.settings import LedgerSettings
from service import engines
from service.engine.client import VllmEngine
from service.engines import EngineHost
from service.metrics import Metrics
from service.prover import Prover
from service.residency import Residency
from tests.support.fake_engine import FakeEngine

BASE = "base"


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[FakeEngine]:
    """It does not run yet."""
    engine = FakeEngine(tmp_path / "engine.sock", BASE)
    yield engine
    await engine.kill()


@pytest.fixture
async def client(engine: FakeEngine) -> AsyncIterator[VllmEngine]:
    client = VllmEngine(engine.socket, BASE)
    yield client
    await client.close()


@pytest.fixture
def host(client: VllmEngine, tmp_path: Path) -> Iterator[EngineHost]:
    metrics = Metrics()
    ledger = open_ledger(LedgerSettings(home=tmp_path))
    prover = Prover(
        client,
        ledger.verdicts,
        number_format=lambda: "float32",
        base_model_dir=lambda _: tmp_path,
        metrics=metrics,
    )
    residency = Residency(
        client, capacity=1, directory_of=lambda _: tmp_path, prover=prover, metrics=metrics
    )
    yield EngineHost(BASE, client, residency, metrics=metrics)
    ledger.close()


async def test_so_many_may_wait_for_an_engine_and_the_next_hears_no_at_once(
    host: EngineHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "_MOST_HOPING", 2)
    waiting = [asyncio.create_task(host.wait_up(3600)) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(Unavailable) as caught:
        await host.wait_up(3600)
    assert caught.value.retry_after
    waiting.pop().cancel()
    await asyncio.sleep(0)
    with pytest.raises(Unavailable):
        await host.wait_up(0.01)
    for task in waiting:
        task.cancel()


async def test_the_first_log_probabilities_of_an_engines_life_are_nobodys_to_wait_for(
    host: EngineHost, engine: FakeEngine
) -> None:
    await host.look()
    assert not host.up
    await engine.start()
    await host.look()
    assert host.up
    assert engine.probes == [BASE]
    await host.look()
    assert engine.probes == [BASE]


@pytest.mark.parametrize("status", [400, 500])
async def test_an_engine_that_says_nothing_of_prompts_serves_all_the_same(
    host: EngineHost, engine: FakeEngine, status: int
) -> None:
    engine.probes_fail = status
    await engine.start()
    await host.look()
    assert host.up
