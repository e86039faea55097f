"""The token that an idle engine is asked for, and what is known of one that gives none."""

import re
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from adapters.ledger import open_ledger
from tests.integration.service.conftest import BASE, Running, ledger_settings, serving, until
from tests.support.fake_engine import FakeEngine

_LAST = re.compile(r"^graft_engine_last_token_timestamp_seconds\{.*\} (\S+)$", re.MULTILINE)
SILENCE_S = 0.2


@pytest.fixture
async def attentive(tmp_path: Path) -> AsyncIterator[Running]:
    """A service that is uneasy after a fifth of a second."""
    settings = ledger_settings(tmp_path)
    engine = FakeEngine(settings.engine_socket(BASE), BASE)
    await engine.start()
    ledger = open_ledger(settings)
    async with serving(tmp_path, canary_seconds=SILENCE_S) as (client, url):
        running = Running(client, engine, ledger, tmp_path, url)
        await running.up()
        yield running
    ledger.close()
    await engine.kill()


async def last_token(running: Running) -> float:
    found = _LAST.search((await running.http.get("/metrics")).text)
    assert found is not None
    return float(found[1])


async def ask(running: Running) -> int:
    body = {"model": BASE, "messages": [{"role": "user", "content": "Say it."}]}
    return (await running.http.post("/v1/chat/completions", json=body)).status_code


async def test_an_idle_engine_is_asked_for_a_token_now_and_then(attentive: Running) -> None:
    before = await last_token(attentive)

    async def sung() -> bool:
        return await last_token(attentive) > before and len(attentive.engine.bodies) >= 2

    await until(sung)
    assert {body["max_tokens"] for body in attentive.engine.bodies} == {1}


async def test_one_that_answers_requests_is_not(attentive: Running) -> None:
    end = time.monotonic() + 5 * SILENCE_S
    while time.monotonic() < end:
        assert await ask(attentive) == 200
    # One may have been on its way before the first request.
    assert sum("max_tokens" in body for body in attentive.engine.bodies) <= 1
    assert time.time() - await last_token(attentive) < SILENCE_S


async def test_one_that_says_it_is_well_and_generates_nothing_is_found_out(
    attentive: Running,
) -> None:
    attentive.engine.slow[BASE] = 3600.0
    asked = len(attentive.engine.bodies)

    async def is_asked() -> bool:
        return len(attentive.engine.bodies) > asked

    await until(is_asked)
    known = await last_token(attentive)
    assert (await attentive.http.get("/readyz")).status_code == 200
    before = time.time()
    await until(lambda: _later(before + 5 * SILENCE_S))
    assert await last_token(attentive) == known < before


async def _later(moment: float) -> bool:
    return time.time() > moment
