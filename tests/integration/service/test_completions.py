import asyncio
import json

import httpx
import openai
import pytest

from tests.integration.service.conftest import BASE, Running, until

CHAT = "/v1/chat/completions"


def chat(model: str, text: str = "hello", **more: object) -> dict[str, object]:
    return {"model": model, "messages": [{"role": "user", "content": text}], **more}


async def said(service: Running, model: str, text: str = "hello") -> str:
    response = await service.http.post(CHAT, json=chat(model, text))
    assert response.status_code == 200, response.text
    return response.json()["choices"][0]["message"]["content"]


async def error(response: httpx.Response) -> dict[str, object]:
    assert response.headers["x-request-id"]
    return response.json()["error"]


async def test_the_base_model_answers_under_its_id(service: Running) -> None:
    assert await said(service, BASE) == f"{BASE}: hello"


async def test_a_name_means_its_live_version_and_a_version_means_itself(service: Running) -> None:
    service.publish("bot")
    assert await said(service, "bot") == "bot@1: hello"
    service.publish("bot")
    await until(lambda: _lists(service, "bot@2"))
    assert await said(service, "bot") == "bot@2: hello"
    assert await said(service, "bot@1") == "bot@1: hello"
    assert await said(service, "bot@live") == "bot@2: hello"


async def _lists(service: Running, model: str) -> bool:
    models = (await service.http.get("/v1/models")).json()["data"]
    return model in {card["id"] for card in models}


async def test_the_response_names_the_version_that_answered(service: Running) -> None:
    service.publish("bot")
    response = await service.http.post(CHAT, json=chat("bot"))
    assert response.json()["model"] == "bot@1"
    assert response.headers["x-graft-version"] == "bot@1"


@pytest.mark.parametrize("model", ["nobody", "bot@7", "bot@canary", "", "../bot", "tiny-base@1"])
async def test_an_unknown_model_is_a_404_with_openais_code(service: Running, model: str) -> None:
    service.publish("bot")
    response = await service.http.post(CHAT, json=chat(model))
    assert response.status_code == 404
    assert (await error(response))["code"] == "model_not_found"


async def test_an_adapter_that_never_beat_its_base_says_how_to_use_it(service: Running) -> None:
    service.publish("bot", promote=False)
    response = await service.http.post(CHAT, json=chat("bot"))
    assert response.status_code == 404
    assert "bot@1" in (await error(response))["message"]
    assert await said(service, "bot@1") == "bot@1: hello"
    await service.http.post("/adapters/bot/promote", json={"version": 1})
    assert await said(service, "bot") == "bot@1: hello"


async def test_a_misspelt_parameter_is_an_error_that_names_the_right_one(service: Running) -> None:
    response = await service.http.post(CHAT, json=chat(BASE, repetiton_penalty=1.2))
    assert response.status_code == 400
    told = await error(response)
    assert (told["code"], told["param"]) == ("unknown_field", "repetiton_penalty")
    assert "'repetition_penalty'" in told["message"]


SAMPLING = {
    "temperature": 0.5,
    "top_p": 0.9,
    "top_k": 40,
    "min_p": 0.1,
    "repetition_penalty": 1.2,
    "presence_penalty": 0.1,
    "frequency_penalty": 0.2,
    "seed": 7,
    "stop": ["x"],
    "logprobs": True,
    "top_logprobs": 2,
    "n": 2,
    "max_tokens": 5,
    "response_format": {"type": "json_object"},
    "tools": [{"type": "function", "function": {"name": "f"}}],
}


async def test_every_sampling_parameter_reaches_the_engine_as_it_came(service: Running) -> None:
    response = await service.http.post(CHAT, json=chat(BASE, **SAMPLING, user=None))
    assert response.status_code == 200, response.text
    [body] = service.engine.bodies
    assert {name: body[name] for name in SAMPLING} == SAMPLING
    assert "user" not in body


async def test_nothing_is_added_to_what_the_client_left_open(service: Running) -> None:
    await service.http.post(CHAT, json=chat(BASE))
    assert set(service.engine.bodies[0]) == {"model", "messages"}


@pytest.mark.parametrize("field", ["priority", "cache_salt", "vllm_xargs", "chat_template"])
async def test_what_reaches_into_the_engine_is_refused(service: Running, field: str) -> None:
    response = await service.http.post(CHAT, json=chat(BASE, **{field: 1}))
    assert response.status_code == 400
    assert service.engine.bodies == []


async def test_more_choices_than_allowed_are_refused(service: Running) -> None:
    response = await service.http.post(CHAT, json=chat(BASE, n=17))
    assert (await error(response))["param"] == "n"


async def test_an_error_of_the_engine_comes_in_our_envelope(service: Running) -> None:
    response = await service.http.post(CHAT, json=chat(BASE, temperature=9))
    assert response.status_code == 400
    assert await error(response) == {
        "message": "temperature must be in [0, 2]",
        "type": "invalid_request_error",
        "param": "temperature",
        "code": "invalid_value",
    }


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b"null", b'{"messages": []}', b"\xff"])
async def test_a_body_that_is_no_request_is_a_400(service: Running, raw: bytes) -> None:
    response = await service.http.post(CHAT, content=raw)
    assert response.status_code == 400
    assert (await error(response))["type"] == "invalid_request_error"


async def test_legacy_completions_work_too(service: Running) -> None:
    service.publish("bot")
    response = await service.http.post("/v1/completions", json={"model": "bot", "prompt": "hi"})
    assert response.json()["choices"][0]["text"] == "bot@1: hi"


async def test_a_stream_arrives_byte_for_byte(service: Running) -> None:
    service.publish("bot")
    async with service.http.stream("POST", CHAT, json=chat("bot", "a b c", stream=True)) as got:
        assert got.headers["content-type"].startswith("text/event-stream")
        lines = [line async for line in got.aiter_lines() if line]
    assert lines[-1] == "data: [DONE]"
    chunks = [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]
    assert {chunk["model"] for chunk in chunks} == {"bot@1"}
    text = "".join(chunk["choices"][0]["delta"]["content"] for chunk in chunks)
    assert text == "bot@1: a b c"


async def test_the_official_sdk_streams_from_an_adapter(service: Running) -> None:
    service.publish("bot")
    async with openai.AsyncOpenAI(base_url=f"{service.url}/v1", api_key="any") as client:
        stream = await client.chat.completions.create(
            model="bot", messages=[{"role": "user", "content": "one two"}], stream=True
        )
        text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
        with pytest.raises(openai.NotFoundError) as caught:
            await client.chat.completions.create(model="nobody", messages=[])
    assert text == "bot@1: one two"
    assert caught.value.code == "model_not_found"


async def test_a_client_that_leaves_cancels_its_generation(service: Running) -> None:
    service.engine.token_seconds = 0.05
    text = "word " * 200
    async with service.http.stream("POST", CHAT, json=chat(BASE, text, stream=True)) as got:
        async for _ in got.aiter_bytes():
            break

    async def idle() -> bool:
        return service.engine.running == 0

    await until(idle, timeout=3)


async def test_a_client_that_leaves_before_the_answer_cancels_it_too(service: Running) -> None:
    service.engine.token_seconds = 0.05
    with pytest.raises(httpx.ReadTimeout):
        await service.http.post(CHAT, json=chat(BASE, "word " * 200), timeout=0.3)

    async def cancelled() -> bool:
        return service.engine.cancelled == 1 and service.engine.running == 0

    await until(cancelled, timeout=3)


# ---- residency


async def test_two_requests_for_a_cold_version_cause_one_load(service: Running) -> None:
    service.engine.load_seconds = 0.1
    service.publish("bot")
    await asyncio.gather(*(said(service, "bot") for _ in range(8)))
    assert service.engine.loads == ["bot@1"]


async def test_a_live_version_is_loaded_before_it_is_asked_for(service: Running) -> None:
    service.publish("bot")

    async def loaded() -> bool:
        return "bot@1" in service.engine.adapters

    await until(loaded)
    assert service.engine.bodies == []


async def test_the_least_recently_used_version_makes_room(service: Running) -> None:
    for n in range(4):
        service.publish(f"bot{n}")
        await said(service, f"bot{n}")
    await said(service, "bot0")
    service.publish("bot4")
    await said(service, "bot4")
    assert set(service.engine.adapters) == {"bot0@1", "bot2@1", "bot3@1", "bot4@1"}
    assert await said(service, "bot1") == "bot1@1: hello"


async def test_a_version_in_use_is_not_evicted(service: Running) -> None:
    for n in range(4):
        service.publish(f"bot{n}")
        await said(service, f"bot{n}")
    service.engine.token_seconds = 0.1
    slow = asyncio.create_task(said(service, "bot0", "a b c d e f"))
    await asyncio.sleep(0.1)
    service.publish("bot4")
    await said(service, "bot4", "x")
    assert "bot0@1" in service.engine.adapters
    assert await slow == "bot0@1: a b c d e f"


async def test_a_version_that_the_engine_refuses_is_an_error_and_harms_nobody(
    service: Running,
) -> None:
    service.engine.refuse.add("bad@1")
    service.publish("bad")
    response = await service.http.post(CHAT, json=chat("bad"))
    assert response.status_code == 502
    assert (await error(response))["code"] == "engine_error"
    assert await said(service, BASE) == f"{BASE}: hello"


async def test_a_deleted_version_leaves_the_engine_once_nobody_uses_it(service: Running) -> None:
    service.publish("bot")
    await said(service, "bot")
    service.engine.token_seconds = 0.1
    slow = asyncio.create_task(said(service, "bot", "a b c d"))
    await asyncio.sleep(0.1)
    await service.http.delete("/adapters/bot")
    assert "bot@1" in service.engine.adapters
    assert await slow == "bot@1: a b c d"

    async def unloaded() -> bool:
        return "bot@1" not in service.engine.adapters

    await until(unloaded)


# ---- the engine dies


async def test_while_the_engine_is_away_the_answer_is_an_honest_503(service: Running) -> None:
    await service.engine.kill()
    response = await service.http.post(CHAT, json=chat(BASE))
    assert response.status_code == 503
    assert 1 <= int(response.headers["retry-after"]) <= 60
    assert (await error(response))["code"] == "engine_unavailable"
    assert (await service.http.get("/healthz")).status_code == 200
    assert (await service.http.get("/readyz")).status_code == 503
    assert (await service.http.get("/adapters")).status_code == 200


async def test_an_engine_that_comes_back_serves_its_adapters_again(service: Running) -> None:
    service.publish("bot")
    await said(service, "bot")
    await service.engine.kill()
    await service.http.post(CHAT, json=chat(BASE))
    await service.engine.start()
    await service.up()
    assert await said(service, "bot") == "bot@1: hello"


async def test_an_engine_restarted_unnoticed_is_given_the_adapter_again(service: Running) -> None:
    service.publish("bot")
    await said(service, "bot")
    service.engine.adapters.clear()
    assert await said(service, "bot") == "bot@1: hello"


async def test_a_stream_cut_by_the_engines_death_ends_with_an_error_event(
    service: Running,
) -> None:
    service.engine.token_seconds = 0.05
    async with service.http.stream("POST", CHAT, json=chat(BASE, "w " * 99, stream=True)) as got:
        lines = []
        async for line in got.aiter_lines():
            lines.append(line)
            if len(lines) == 4:
                await service.engine.kill()
    last = json.loads([line for line in lines if line][-1].removeprefix("data: "))
    assert last["error"]["code"] == "engine_unavailable"
