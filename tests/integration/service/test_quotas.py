"""Rates as an SDK sees them, with an engine that answers; and two services on one ledger."""

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import httpx
import openai
import pytest

from adapters.keys import NewKey, Scope
from adapters.ledger import open_ledger
from adapters.settings import QuotaSettings
from adapters.sharing import Share
from tests.integration.service.conftest import BASE, Running, ledger_settings, serving, until
from tests.support.fake_engine import FakeEngine

CHAT = "/v1/chat/completions"
#: One comes back in a second, so that what a slow machine gives back is not mistaken for what was settled.
TOKENS = 60
SLACK = 5


@pytest.fixture
async def bounded(tmp_path: Path) -> AsyncIterator[Running]:
    settings = ledger_settings(tmp_path)
    engine = FakeEngine(settings.engine_socket(BASE), BASE)
    await engine.start()
    ledger = open_ledger(settings)
    quotas = QuotaSettings(default={"requests_per_minute": 4, "tokens_per_minute": TOKENS})
    async with serving(tmp_path, quotas=quotas, engine_wait_seconds=0.2) as (client, url):
        running = Running(client, engine, ledger, tmp_path, url)
        await running.up()
        yield running
    ledger.close()
    await engine.kill()


def chat(**more: object) -> dict[str, object]:
    return {"model": BASE, "messages": [{"role": "user", "content": "hello"}], **more}


async def left(service: Running) -> int:
    return int((await service.http.get("/v1/usage")).json()["tokens"]["remaining"])


async def test_an_answer_says_what_is_left_and_is_charged_for_what_it_came_to(
    bounded: Running,
) -> None:
    answer = await bounded.http.post(CHAT, json=chat(max_tokens=TOKENS - 30))
    total = answer.json()["usage"]["total_tokens"]
    assert total < 30
    assert answer.headers["x-ratelimit-limit-requests"] == "4"
    assert answer.headers["x-ratelimit-remaining-requests"] == "3"
    assert answer.headers["x-ratelimit-limit-tokens"] == str(TOKENS)
    assert 0 <= int(answer.headers["x-ratelimit-remaining-tokens"]) - (TOKENS - total) <= SLACK
    assert answer.headers["x-ratelimit-reset-tokens"].endswith("s")


async def test_a_stream_is_charged_when_it_has_ended(bounded: Running) -> None:
    body = chat(stream=True, stream_options={"include_usage": True}, max_tokens=TOKENS // 2)
    async with bounded.http.stream("POST", CHAT, json=body) as answer:
        assert int(answer.headers["x-ratelimit-remaining-tokens"]) <= TOKENS // 2 + SLACK
        told = [json.loads(line[6:]) async for line in answer.aiter_lines() if "usage" in line]
    total = told[-1]["usage"]["total_tokens"]

    async def settled() -> bool:
        return 0 <= await left(bounded) - (TOKENS - total) <= SLACK

    await until(settled)


async def test_counting_tokens_costs_a_request_and_no_tokens(bounded: Running) -> None:
    answer = await bounded.http.post("/tokenize", json={"model": BASE, "prompt": "x" * 4000})
    assert answer.headers["x-ratelimit-remaining-requests"] == "3"
    assert answer.headers["x-ratelimit-remaining-tokens"] == str(TOKENS)


async def test_the_sdk_is_told_when_a_minutes_requests_are_used_up(bounded: Running) -> None:
    sdk = openai.AsyncOpenAI(base_url=f"{bounded.url}/v1", api_key="unused", max_retries=0)
    for _ in range(4):
        await bounded.http.post(CHAT, json=chat(max_tokens=1))
    with pytest.raises(openai.RateLimitError, match="4 requests per minute") as refused:
        await sdk.chat.completions.create(**chat(max_tokens=1))
    assert refused.value.code == "rate_limit_exceeded"
    headers = refused.value.response.headers
    assert 1 <= int(headers["retry-after"]) <= 15
    assert headers["x-ratelimit-remaining-requests"] == "0"
    await sdk.close()


async def test_what_is_no_longer_shared_answers_on_no_replica_three_seconds_later(
    tmp_path: Path,
) -> None:
    """Two services on one ledger; the owner speaks to one of them only."""
    settings = ledger_settings(tmp_path)
    engine, ledger = FakeEngine(settings.engine_socket(BASE), BASE), open_ledger(settings)
    await engine.start()
    async with AsyncExitStack() as stack:
        here, there = [
            (await stack.enter_async_context(serving(tmp_path, auth=True)))[0] for _ in range(2)
        ]
        keys = {
            who: ledger.keys.make(NewKey(tenant=who, scopes=(Scope.INFER, Scope.TUNE))).secret
            for who in ("default", "ours")
        }
        owner, sharee = ({"authorization": f"Bearer {keys[who]}"} for who in ("default", "ours"))
        Running(here, engine, ledger, tmp_path, "").publish("bot")

        async def answers(http: httpx.AsyncClient) -> bool:
            body = chat() | {"model": "bot"}
            return (await http.post(CHAT, json=body, headers=sharee)).status_code == 200

        assert not await answers(there)
        told = await here.post("/adapters/bot/shares", json={"tenant": "ours"}, headers=owner)
        assert told.status_code == 201, told.text
        await until(lambda: answers(there))
        await here.delete("/adapters/bot/shares/ours", headers=owner)
        assert not await answers(here)

        async def gone() -> bool:
            return not await answers(there)

        await until(gone, timeout=3)
        # Changed by neither of them, but in the ledger itself.
        ledger.of("default").sharing.put("bot", Share(tenant="*"))
        await until(lambda: answers(there))
        ledger.of("default").registry.delete("bot")
        await until(gone, timeout=3)
    ledger.close()
    await engine.kill()
