"""Fairness, protection and the other endpoints: the real service on a real port, the fake engine behind its socket."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from adapters.ledger import open_ledger
from tests.integration.service.conftest import BASE, Running, ledger_settings, serving, until
from tests.support import fake_answers
from tests.support.fake_engine import FakeEngine

CHAT = "/v1/chat/completions"
SAID = [{"role": "user", "content": "one two three"}]
REQUESTS: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": SAID},
    "/v1/completions": {"prompt": "one two three"},
    "/v1/responses": {"input": "one two three"},
    "/v1/messages": {"messages": SAID, "max_tokens": 9},
    "/v1/messages/count_tokens": {"messages": SAID},
    "/tokenize": {"prompt": "one two three"},
    "/v1/tokenize": {"messages": SAID},
    "/detokenize": {"tokens": [3, 3, 5]},
    "/v1/detokenize": {"tokens": [3, 3, 5]},
}
STREAMED = ["/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"]


@pytest.fixture
async def patient(tmp_path: Path) -> AsyncIterator[Callable[..., Any]]:
    """Starts a service that waits for its engine; settings are the test's."""
    closing: list[Callable[[], Any]] = []

    async def start(**settings: object) -> Running:
        at = ledger_settings(tmp_path)
        engine = FakeEngine(at.engine_socket(BASE), BASE)
        await engine.start()
        ledger = open_ledger(at)
        context = serving(tmp_path, **{"engine_wait_seconds": 10, **settings})
        client, url = await context.__aenter__()
        closing.extend((engine.kill, lambda: context.__aexit__(None, None, None)))
        running = Running(client, engine, ledger, tmp_path, url)
        await running.up()
        return running

    yield start
    for close in reversed(closing):
        await close()


async def straight(engine: FakeEngine, path: str, body: dict[str, Any]) -> httpx.Response:
    """The same request without the service in between."""
    transport = httpx.AsyncHTTPTransport(uds=str(engine.socket))
    async with httpx.AsyncClient(transport=transport, base_url="http://engine") as client:
        return await client.post(path, json=body)


def events_of(text: str) -> list[Any]:
    lines = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]
    return [line if line == "[DONE]" else json.loads(line) for line in lines]


# ---- one path for all endpoints


async def test_every_endpoint_answers_as_the_engine_does_by_whatever_name(service: Running) -> None:
    version = service.publish("bot")
    assert version.fine_tuned_name is not None
    for name in ("bot", "bot@1", version.fine_tuned_name):
        for path, body in REQUESTS.items():
            got = await service.http.post(path, json={"model": name, **body})
            assert got.status_code == 200, (path, got.text)
            assert got.headers["x-graft-version"] == "bot@1"
            assert service.engine.bodies[-1] == {"model": "bot@1", **body}
            theirs = path.removeprefix("/v1") if "tokenize" in path else path
            plain = await straight(service.engine, theirs, {"model": "bot@1", **body})
            assert got.content == plain.content
    assert service.engine.loads == ["bot@1"]


async def test_every_stream_is_the_engines_byte_for_byte(service: Running) -> None:
    service.publish("bot")
    for path in STREAMED:
        body = REQUESTS[path] | {"stream": True}
        got = await service.http.post(path, json={"model": "bot", **body})
        assert got.headers["content-type"].startswith("text/event-stream")
        plain = await straight(service.engine, path, {"model": "bot@1", **body})
        assert got.content == plain.content


@pytest.mark.parametrize("path", sorted(REQUESTS))
async def test_every_endpoint_speaks_of_mistakes_in_our_envelope(
    service: Running, path: str
) -> None:
    body = REQUESTS[path]
    mistakes = [
        ({"model": "nobody", **body}, 404, "model", "model_not_found"),
        ({"model": BASE, **body, "vllm_xargs": {"a": 1}}, 400, "vllm_xargs", "invalid_value"),
        ({"model": BASE, **body, "no_such": 1}, 400, "no_such", "unknown_field"),
        (body, 400, "model", "invalid_request"),
    ]
    for sent, status, param, code in mistakes:
        got = await service.http.post(path, json=sent)
        told = got.json()["error"]
        assert (got.status_code, told["param"], told["code"]) == (status, param, code)
        assert ("type" in got.json()) == ("messages" in path)
    assert service.engine.bodies == []


async def test_what_is_too_much_never_reaches_the_engine(service: Running) -> None:
    for field, value in (
        ("n", 10_000),
        ("top_logprobs", 10_000),
        ("stop", ["x"] * 99),
        ("max_tokens", 10**9),
        ("logit_bias", {str(token): 1 for token in range(5000)}),
        ("tools", [{"type": "function", "function": {"name": "f"}}] * 999),
        ("messages", [{"role": "user", "content": "x" * 1_500_000}]),
    ):
        body = {"model": BASE, "messages": SAID, field: value}
        got = await service.http.post(CHAT, json=body)
        assert (got.status_code, got.json()["error"]["param"]) == (400, field)
    deep = f'{{"model": "{BASE}", "messages": {"[" * 200_000}'
    assert (await service.http.post(CHAT, content=deep)).status_code == 400
    assert service.engine.bodies == []


# ---- OpenAI's SDK, with and without the service in between


async def test_what_the_sdk_gets_of_an_adapter_is_what_the_engine_said(service: Running) -> None:
    service.publish("bot")
    tools = [{"type": "function", "function": {"name": "look_up", "parameters": {}}}]
    schema = {"name": "a", "schema": {"type": "object"}}
    asked: list[dict[str, Any]] = [
        {},
        {"n": 3, "temperature": 0.5},
        {"tools": tools},
        {"response_format": {"type": "json_schema", "json_schema": schema}},
        {"logprobs": True, "top_logprobs": 2},
        {"stream_options": {"include_usage": True}},
    ]
    transport = httpx.AsyncHTTPTransport(uds=str(service.engine.socket))
    async with (
        openai.AsyncOpenAI(base_url=f"{service.url}/v1", api_key="any") as ours,
        openai.AsyncOpenAI(
            base_url="http://engine/v1",
            api_key="any",
            http_client=httpx.AsyncClient(transport=transport),
        ) as theirs,
    ):
        for options in asked:
            streamed = await _chunks(ours, "bot", options)
            assert streamed == await _chunks(theirs, "bot@1", options)
            if "stream_options" not in options:
                whole = await ours.chat.completions.create(model="bot", messages=SAID, **options)
                plain = await theirs.chat.completions.create(
                    model="bot@1", messages=SAID, **options
                )
                assert whole.model_dump() == plain.model_dump()
        answer = await ours.responses.create(model="bot", input="hello there")
        assert answer.output_text == "bot@1: hello there"
        async with ours.responses.stream(model="bot", input="hello there") as stream:
            final = await stream.get_final_response()
        assert (final.model, final.output_text) == ("bot@1", "bot@1: hello there")


async def _chunks(client: openai.AsyncOpenAI, model: str, options: dict[str, Any]) -> list[Any]:
    stream = await client.chat.completions.create(
        model=model, messages=SAID, stream=True, **options
    )
    return [chunk.model_dump() async for chunk in stream]


# ---- in front of the engine


async def test_a_flood_is_refused_with_a_time_and_others_still_get_in(
    patient: Callable[..., Any],
) -> None:
    service = await patient(max_running=2, max_waiting_per_adapter=4)
    service.publish("noisy")
    service.publish("quiet")
    service.engine.token_seconds = 0.05
    body = {"messages": SAID}

    async def ask(model: str) -> httpx.Response:
        return await service.http.post(CHAT, json={"model": model, **body})

    # An adapter that is being loaded has one request started, not two: the flood is to meet one that is there.
    assert (await ask("noisy")).status_code == 200
    flood = [asyncio.create_task(ask("noisy")) for _ in range(20)]

    async def waiting() -> bool:
        return any(task.done() for task in flood)

    await until(waiting)
    quiet = await ask("quiet")
    assert quiet.status_code == 200
    answers = await asyncio.gather(*flood)
    refused = [answer for answer in answers if answer.status_code == 429]
    assert 1 <= len(refused) <= 14
    for answer in refused:
        assert answer.json()["error"]["code"] == "rate_limit_exceeded"
        assert 1 <= int(answer.headers["retry-after"]) <= 120
    assert service.engine.most_running <= 2


async def test_a_load_that_takes_long_holds_up_nobody_else(patient: Callable[..., Any]) -> None:
    service = await patient(max_running=1, refresh_seconds=60)
    service.publish("cold")
    service.engine.load_seconds = 1.0
    cold = asyncio.create_task(service.http.post(CHAT, json={"model": "cold", "messages": SAID}))

    async def loading() -> bool:
        return service.engine.tries == ["cold@1"]

    await until(loading)
    for _ in range(5):
        warm = await service.http.post(CHAT, json={"model": BASE, "messages": SAID})
        assert warm.status_code == 200
    assert not cold.done()
    assert (await cold).json()["model"] == "cold@1"


async def test_more_adapters_than_seats_are_all_answered(patient: Callable[..., Any]) -> None:
    service = await patient(max_active_adapters=2)
    for number in range(7):
        service.publish(f"bot{number}", promote=False)
    service.engine.token_seconds = 0.01

    async def ask(number: int) -> str:
        body = {"model": f"bot{number}@1", "messages": SAID}
        answer = await service.http.post(CHAT, json=body)
        assert answer.status_code == 200, answer.text
        return answer.json()["model"]

    wanted = [number % 7 for number in range(42)]
    assert await asyncio.gather(*map(ask, wanted)) == [f"bot{number}@1" for number in wanted]
    assert len(service.engine.adapters) <= 4


# ---- the engine dies


@pytest.mark.parametrize("stream", [False, True])
async def test_who_has_been_told_nothing_is_answered_by_the_next_engine(
    patient: Callable[..., Any], stream: bool
) -> None:
    service = await patient()
    service.publish("bot")
    service.engine.comes_back = True
    service.engine.die_before_event = 0
    body = {"model": "bot", "messages": SAID, "stream": stream}
    answer = await service.http.post(CHAT, json=body)
    assert answer.status_code == 200
    assert service.engine.deaths == 1
    assert service.engine.loads.count("bot@1") == 2
    if stream:
        assert events_of(answer.text)[-1] == "[DONE]"
    else:
        assert answer.json()["choices"][0]["message"]["content"] == "bot@1: one two three"
    metrics = (await service.http.get("/metrics")).text
    assert f'graft_completion_retries_total{{base_model="{BASE}"}} 1.0' in metrics


@pytest.mark.parametrize("path", STREAMED)
async def test_a_stream_that_has_begun_ends_with_an_error_in_the_words_of_its_endpoint(
    service: Running, path: str
) -> None:
    service.engine.die_in_event = 3
    body = {"model": BASE, **REQUESTS[path], "stream": True}
    answer = await service.http.post(path, json=body)
    assert answer.status_code == 200
    *before, last = events_of(answer.text)
    whole = (await _whole_events(path, body))[:3]
    assert before == whole
    told = last if path == "/v1/responses" else last["error"]
    assert told["code"] == "engine_unavailable"
    assert answer.text.endswith("\n\n")
    if path in {"/v1/responses", "/v1/messages"}:
        assert last["type"] == "error"
        assert answer.text.rsplit("event: ", 1)[1].startswith("error\n")


async def _whole_events(path: str, body: dict[str, Any]) -> list[Any]:
    makers = {
        "/v1/chat/completions": fake_answers.chat_events,
        "/v1/completions": fake_answers.completion_events,
        "/v1/responses": fake_answers.response_events,
        "/v1/messages": fake_answers.message_events,
    }
    return events_of(b"".join(makers[path](body)).decode())


async def test_under_load_every_stream_completes_or_ends_with_an_error(
    patient: Callable[..., Any],
) -> None:
    service = await patient(max_running=8)
    for number in range(3):
        service.publish(f"bot{number}")
    service.engine.token_seconds = 0.02

    async def ask(number: int) -> tuple[int, list[Any]]:
        path = STREAMED[number % 2]
        body = REQUESTS[path] | {"model": f"bot{number % 3}", "stream": True}
        answer = await service.http.post(path, json=body)
        return answer.status_code, events_of(answer.text)

    asking = [asyncio.create_task(ask(number)) for number in range(40)]

    async def under_way() -> bool:
        return any(task.done() for task in asking)

    await until(under_way)
    await service.engine.kill()
    await asyncio.sleep(0.05)
    await service.engine.start()
    answers = await asyncio.gather(*asking)
    assert {status for status, _ in answers} == {200}
    whole = [events for _, events in answers if events[-1] == "[DONE]"]
    cut = [events for _, events in answers if events[-1] != "[DONE]"]
    assert all(events[-1]["error"]["code"] == "engine_unavailable" for events in cut)
    assert len(whole) >= 32
    for number, (_, events) in enumerate(answers):
        models = {event["model"] for event in events if "model" in event}
        assert models <= {f"bot{number % 3}@1"}


async def test_the_sdk_raises_when_a_stream_is_cut(service: Running) -> None:
    service.engine.die_in_event = 2
    async with openai.AsyncOpenAI(base_url=f"{service.url}/v1", api_key="any") as client:
        stream = await client.chat.completions.create(model=BASE, messages=SAID, stream=True)
        chunks = aiter(stream)
        assert (await anext(chunks)).choices[0].delta.content == f"{BASE}:"
        assert (await anext(chunks)).choices[0].delta.content == " one"
        with pytest.raises(openai.APIError, match="starting"):
            await anext(chunks)


async def test_an_engine_that_stays_away_is_an_honest_503(service: Running) -> None:
    service.engine.die_before_event = 0
    answer = await service.http.post(CHAT, json={"model": BASE, "messages": SAID})
    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == "engine_unavailable"
    assert 1 <= int(answer.headers["retry-after"]) <= 60


async def test_a_stream_that_the_engine_ends_too_soon_does_not_end_silently(
    service: Running,
) -> None:
    service.engine.ends_before_event = 2
    body = {"model": BASE, "messages": SAID, "stream": True}
    answer = await service.http.post(CHAT, json=body)
    *before, last = events_of(answer.text)
    assert len(before) == 2
    assert last["error"]["code"] == "engine_error"


# ---- what is measured


async def test_adapters_are_measured_by_name(service: Running) -> None:
    service.publish("bot")
    for body in ({"stream": False}, {"stream": True, "stream_options": {"include_usage": True}}):
        await service.http.post(CHAT, json={"model": "bot", "messages": SAID, **body})
    await service.http.post(CHAT, json={"model": "bot", "messages": SAID, "temperature": 9})
    text = (await service.http.get("/metrics")).text
    for line in (
        'graft_adapter_requests_total{adapter="bot",outcome="ok"} 2.0',
        'graft_adapter_requests_total{adapter="bot",outcome="client_error"} 1.0',
        'graft_adapter_tokens_total{adapter="bot",kind="prompt"} 6.0',
        'graft_adapter_tokens_total{adapter="bot",kind="completion"} 8.0',
        'graft_adapter_request_duration_seconds_count{adapter="bot"} 3.0',
        f'graft_queue_wait_seconds_count{{base_model="{BASE}"}} 3.0',
    ):
        assert line in text
