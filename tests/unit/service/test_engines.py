import asyncio
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


async def test_so_many_may_wait_for_an_engine_and_the_next_hears_no_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "_MOST_HOPING", 2)
    engine = VllmEngine(tmp_path / "nobody.sock", "base")
    metrics = Metrics()
    ledger = open_ledger(LedgerSettings(home=tmp_path))
    prover = Prover(
        engine,
        ledger.verdicts,
        number_format="float32",
        base_model_dir=lambda _: tmp_path,
        metrics=metrics,
    )
    residency = Residency(
        engine, capacity=1, directory_of=lambda _: tmp_path, prover=prover, metrics=metrics
    )
    host = EngineHost("base", engine, residency, metrics=metrics)
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
    ledger.close()
