"""Which version answers, with which defaults: the life of a version between going live and being gone."""

import asyncio
import json

import pytest

from adapters.records import Version
from service.split import draw
from tests.integration.service.conftest import BASE, Running, serving, until
from tests.integration.service.test_completions import CHAT, chat, error

BOT = "bot"


async def point(service: Running, alias: str, **body: object) -> dict[str, object]:
    response = await service.http.put(f"/adapters/{BOT}/aliases/{alias}", json=body)
    assert response.status_code == 200, response.text
    return response.json()


async def act(service: Running, what: str, **body: object) -> dict[str, object]:
    response = await service.http.post(f"/adapters/{BOT}/{what}", json=body)
    assert response.status_code == 200, response.text
    return response.json()


async def answering(service: Running, headers: dict[str, str] | None = None, **more: object) -> str:
    """The version that answers the bare name."""
    response = await service.http.post(CHAT, json=chat(BOT, **more), headers=headers)
    assert response.status_code == 200, response.text
    assert response.json()["model"] == response.headers["x-graft-version"]
    return response.headers["x-graft-version"]


def publish(service: Running, times: int = 2) -> list[Version]:
    return [service.publish(BOT) for _ in range(times)]


async def metric(service: Running, line: str) -> float:
    text = (await service.http.get("/metrics")).text
    found = [one for one in text.splitlines() if one.startswith(line)]
    return sum(float(one.rpartition(" ")[2]) for one in found)


# ---- aliases


async def test_an_alias_answers_to_its_name(service: Running) -> None:
    publish(service)
    entry = await point(service, "stable", version=1)
    assert (entry["aliases"], entry["weights"]) == ({"live": 2, "stable": 1}, {})
    response = await service.http.post(CHAT, json=chat("bot@stable"))
    assert response.headers["x-graft-version"] == "bot@1"
    for _ in range(2):
        gone = await service.http.delete(f"/adapters/{BOT}/aliases/stable")
        assert (gone.status_code, gone.json()["aliases"]) == (200, {"live": 2})
    response = await service.http.post(CHAT, json=chat("bot@stable"))
    assert (await error(response))["code"] == "model_not_found"


async def test_what_an_alias_means_can_be_downloaded_and_is_not_deleted_by_it(
    service: Running,
) -> None:
    publish(service, 3)
    await point(service, "stable", version=1)
    for name, number in (("bot@stable", 1), ("bot@live", 3), ("bot@2", 2), ("bot", 3)):
        response = await service.http.get(f"/adapters/{name}/download")
        assert response.status_code == 200, response.text
        assert f'filename="bot-{number}.tar"' in response.headers["content-disposition"]
    assert (await service.http.get("/adapters/bot@canary/download")).status_code == 404
    for alias, number in (("stable", 1), ("live", 3)):
        told = await error(await service.http.delete(f"/adapters/bot@{alias}"))
        assert (told["code"], told["param"]) == ("invalid_request", "name")
        assert f"of bot@{number}." in told["message"]
    assert (await service.http.delete("/adapters/bot@canary")).status_code == 404
    entry = (await service.http.get(f"/adapters/{BOT}")).json()
    assert [version["number"] for version in entry["versions"]] == [1, 2, 3]
    assert (await service.http.delete("/adapters/bot@2")).status_code == 200


async def test_promoting_and_rolling_back_count_from_the_next_request_on(service: Running) -> None:
    publish(service, 3)
    assert (await act(service, "promote", version=1))["live"] == "bot@1"
    assert await answering(service) == "bot@1"
    assert (await service.http.post(f"/adapters/{BOT}/rollback")).json()["live"] == "bot@3"
    assert await answering(service) == "bot@3"
    for _ in range(2):
        assert (await act(service, "rollback", expected=3))["live"] == "bot@2"
    assert await answering(service) == "bot@2"
    await point(service, "canary", version=3, weight=0.5)
    entry = await act(service, "promote", alias="canary")
    assert (entry["live"], entry["weights"]) == ("bot@3", {})


async def test_who_was_not_first_is_told_so(service: Running) -> None:
    publish(service, 3)
    await act(service, "promote", version=1, expected=3)
    response = await service.http.post(
        f"/adapters/{BOT}/promote", json={"version": 2, "expected": 3}
    )
    # OpenAI's SDK would send it again.
    assert (response.status_code, response.headers["x-should-retry"]) == (409, "false")
    told = await error(response)
    assert (told["code"], told["param"]) == ("alias_moved", "expected")
    assert "bot@1" in told["message"]


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "param"),
    [
        ("PUT", "aliases/7", {"version": 1}, 400, "alias"),
        ("PUT", "aliases/Prod", {"version": 1}, 400, "alias"),
        ("PUT", "aliases/stable", {"version": 1, "weight": 0.5}, 400, "weight"),
        ("PUT", "aliases/canary", {"version": 1, "weight": 1.5}, 400, "weight"),
        ("PUT", "aliases/canary", {"version": 1, "wieght": 0.5}, 400, "wieght"),
        ("PUT", "aliases/canary", {"version": 9}, 404, "version"),
        ("PUT", "aliases/canary", {}, 400, "version"),
        ("DELETE", "aliases/live", None, 400, "alias"),
        ("POST", "promote", {}, 400, None),
        ("POST", "promote", {"version": 1, "alias": "canary"}, 400, None),
        ("POST", "promote", {"alias": "canary"}, 404, "alias"),
        ("POST", "rollback", None, 400, "name"),
        ("POST", "rollback", {"expceted": 1}, 400, "expceted"),
        ("PUT", "defaults", {"temprature": 1}, 400, "temprature"),
        ("PUT", "defaults", {"temperature": 3}, 400, "temperature"),
        ("PUT", "defaults", {"preset": "loud"}, 400, "preset"),
    ],
)
async def test_what_cannot_be_is_refused_with_the_field_that_is_wrong(
    service: Running, method: str, path: str, body: object, status: int, param: str | None
) -> None:
    publish(service, 1)
    response = await service.http.request(method, f"/adapters/{BOT}/{path}", json=body)
    assert response.status_code == status, response.text
    assert (await error(response))["param"] == param
    assert (await service.http.get(f"/adapters/{BOT}")).json()["aliases"] == {"live": 1}


async def test_another_process_follows(service: Running) -> None:
    publish(service)
    async with serving(service.home) as (other, _):
        await act(service, "promote", version=1)

        async def followed() -> bool:
            return (await other.post(CHAT, json=chat(BOT))).headers.get(
                "x-graft-version"
            ) == "bot@1"

        await until(followed)


async def test_an_answer_ends_with_the_version_that_began_it(service: Running) -> None:
    publish(service)
    service.engine.token_seconds = 0.05
    text = "one two three four five six"
    async with service.http.stream("POST", CHAT, json=chat(BOT, text, stream=True)) as got:
        lines = got.aiter_lines()
        assert json.loads((await anext(lines)).removeprefix("data: "))["model"] == "bot@2"
        await act(service, "promote", version=1)
        await service.http.delete("/adapters/bot@2")
        service.engine.token_seconds = 0.0
        assert await answering(service) == "bot@1"
        rest = [line.removeprefix("data: ") async for line in lines if line]
    assert rest[-1] == "[DONE]"
    assert {json.loads(one)["model"] for one in rest[:-1]} == {"bot@2"}


# ---- canary


async def test_a_canary_gets_its_share_of_the_users_and_keeps_them(service: Running) -> None:
    publish(service)
    users = [f"user-{n}" for n in range(24)]
    for weight in (0.25, 0.5):
        await point(service, "canary", version=1, weight=weight)
        expected = ["bot@1" if draw(BOT, user) < weight else "bot@2" for user in users]
        assert {"bot@1", "bot@2"} == set(expected)
        assert [await answering(service, user=user) for user in users] == expected
    assert {await answering(service, {"x-graft-user": user}) for user in users[:8]} == set(
        expected[:8]
    )
    named = await answering(service, {"x-graft-user": users[1]}, user=users[0])
    assert named == expected[0]
    assert await answering(service, safety_identifier=users[2]) == expected[2]


async def test_without_users_a_canary_gets_its_share_by_chance(service: Running) -> None:
    publish(service)
    await point(service, "canary", version=1, weight=0.5)
    assert {await answering(service) for _ in range(32)} == {"bot@1", "bot@2"}
    await point(service, "canary", version=1, weight=1)
    assert {await answering(service) for _ in range(8)} == {"bot@1"}
    await point(service, "canary", version=1, weight=0)
    assert {await answering(service) for _ in range(8)} == {"bot@2"}


async def test_only_the_bare_name_is_shared(service: Running) -> None:
    publish(service)
    await point(service, "canary", version=1, weight=1)
    for model, version in (("bot@live", "bot@2"), ("bot@2", "bot@2"), ("bot@canary", "bot@1")):
        response = await service.http.post(CHAT, json=chat(model, user="somebody"))
        assert response.headers["x-graft-version"] == version


async def test_a_canary_is_loaded_ahead(service: Running) -> None:
    publish(service)
    await point(service, "canary", version=1, weight=0.01)

    async def loaded() -> bool:
        return {"bot@1", "bot@2"} <= set(service.engine.adapters)

    await until(loaded)


# ---- shadow


async def test_a_shadow_gets_the_same_request_and_nobody_its_answer(service: Running) -> None:
    publish(service)
    await point(service, "shadow", version=1, weight=1)
    async with service.http.stream(
        "POST", CHAT, json=chat(BOT, "a b c", stream=True, stream_options={"include_usage": True})
    ) as got:
        assert got.headers["x-graft-version"] == "bot@2"
        lines = [line.removeprefix("data: ") async for line in got.aiter_lines() if line]
    assert {json.loads(line)["model"] for line in lines[:-1]} == {"bot@2"}
    counted = 'graft_completions_total{base_model="tiny-base",kind="shadow",outcome="ok"}'

    async def done() -> bool:
        return await metric(service, counted) == 1

    await until(done)
    mine, shadows = service.engine.bodies
    assert (mine["model"], shadows["model"]) == ("bot@2", "bot@1")
    assert shadows["messages"] == mine["messages"]
    assert "stream" not in shadows
    assert "stream_options" not in shadows


async def test_nobody_waits_for_a_shadow_and_too_many_are_dropped(service: Running) -> None:
    publish(service)
    await point(service, "shadow", version=1, weight=1)
    service.engine.slow["bot@1"] = 60.0
    async with asyncio.timeout(20):
        assert {await answering(service) for _ in range(6)} == {"bot@2"}
    assert await metric(service, "graft_shadow_requests_dropped_total") == 2
    assert [body["model"] for body in service.engine.bodies].count("bot@1") == 4


async def test_a_shadow_is_not_sent_while_the_engine_has_no_place_to_spare(
    service: Running,
) -> None:
    publish(service)
    await point(service, "shadow", version=1, weight=1)
    async with serving(service.home, max_running=1, engine_wait_seconds=5) as (busy, _):
        assert (await busy.post(CHAT, json=chat(BOT))).headers["x-graft-version"] == "bot@2"
        text = (await busy.get("/metrics")).text
    assert 'graft_shadow_requests_dropped_total{base_model="tiny-base"} 1.0' in text
    assert [body["model"] for body in service.engine.bodies] == ["bot@2"]


async def test_a_shadow_that_fails_harms_nobody(service: Running) -> None:
    publish(service)
    service.engine.refuse.add("bot@1")
    await point(service, "shadow", version=1, weight=1)
    assert await answering(service) == "bot@2"
    counted = 'graft_completions_total{base_model="tiny-base",kind="shadow",outcome="engine_error"}'

    async def failed() -> bool:
        return await metric(service, counted) == 1

    await until(failed)
    assert await answering(service) == "bot@2"


# ---- what requests leave open


async def set_defaults(service: Running, **sampling: object) -> dict[str, object]:
    response = await service.http.put(f"/adapters/{BOT}/defaults", json=sampling)
    assert response.status_code == 200, response.text
    return response.json()["defaults"]


async def sent(service: Running, model: str = BOT, **more: object) -> dict[str, object]:
    """What the engine was given of a request, but for its name and its words."""
    response = await service.http.post(CHAT, json=chat(model, **more))
    assert response.status_code == 200, response.text
    return {k: v for k, v in service.engine.bodies[-1].items() if k not in {"model", "messages"}}


async def test_an_adapters_defaults_fill_what_is_left_open_and_nothing_else(
    service: Running,
) -> None:
    publish(service)
    given = {"temperature": 0.3, "stop": ["###"], "max_tokens": 9}
    assert await set_defaults(service, **given) == given
    for model in (BOT, "bot@1", "bot@live"):
        assert await sent(service, model) == given
    asked = {"temperature": 0, "stop": None, "max_completion_tokens": 5}
    assert await sent(service, **asked) == {
        "temperature": 0,
        "stop": ["###"],
        "max_completion_tokens": 5,
    }
    assert await sent(service, BASE) == {}
    assert await set_defaults(service) == {}
    assert await sent(service) == {}


PRESET = {"repetition_penalty": 1.2, "temperature": 0.7, "top_p": 0.9}


async def test_a_preset_is_a_name_for_values_that_are_not_given(service: Running) -> None:
    publish(service)
    asked = await sent(service, preset="anti-repetition", temperature=0.1)
    detection = asked.pop("repetition_detection")
    assert detection["max_pattern_size"] == 64
    assert asked == {**PRESET, "temperature": 0.1}
    assert await sent(service, preset="anti-repetition", repetition_guard=False) == PRESET
    await set_defaults(service, preset="anti-repetition", top_p=0.5, repetition_guard=False)
    assert await sent(service) == {**PRESET, "top_p": 0.5}
    assert await sent(service, preset="none") == {"top_p": 0.5}


@pytest.mark.parametrize(
    ("field", "value"),
    [("preset", "loud"), ("preset", 1), ("preset", ["none"]), ("repetition_guard", "yes")],
)
async def test_a_preset_that_is_none_is_refused(
    service: Running, field: str, value: object
) -> None:
    response = await service.http.post(CHAT, json=chat(BASE, **{field: value}))
    assert response.status_code == 400
    assert (await error(response))["param"] == field
    assert service.engine.bodies == []


# ---- answers that loop

LOOP = "well, " + "and so on " * 200


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_that_loops_is_stopped_and_says_so(service: Running, stream: bool) -> None:
    body = chat(BASE, LOOP, stream=stream, repetition_guard=True)
    response = await service.http.post(CHAT, json=body)
    text, ending = read(response.text, stream=stream)
    assert ending["finish_reason"] == "length"
    assert ending["stopped_by"] == "repetition_guard"
    assert 64 <= len(text.split(" ")) < 100
    assert await metric(service, "graft_repetition_stops_total") == 1


@pytest.mark.parametrize("stream", [False, True])
async def test_nobody_is_stopped_who_did_not_ask_for_it(service: Running, stream: bool) -> None:
    response = await service.http.post(CHAT, json=chat(BASE, LOOP, stream=stream))
    text, ending = read(response.text, stream=stream)
    assert text == f"{BASE}: {LOOP}"
    assert "stopped_by" not in ending
    # Who speaks to the engine in its own words is answered in them.
    detection = {"max_pattern_size": 8, "min_count": 4, "min_pattern_size": 1}
    body = chat(BASE, LOOP, stream=stream, repetition_detection=detection)
    _, ending = read((await service.http.post(CHAT, json=body)).text, stream=stream)
    assert ending["finish_reason"] == "repetition"


def read(answer: str, *, stream: bool) -> tuple[str, dict[str, object]]:
    """The text of an answer, and its last choice."""
    if not stream:
        [choice] = json.loads(answer)["choices"]
        return choice["message"]["content"], choice
    events = [line.removeprefix("data: ") for line in answer.split("\n\n") if line]
    assert events[-1] == "[DONE]"
    choices = [json.loads(event)["choices"][0] for event in events[:-1]]
    return "".join(one["delta"].get("content", "") for one in choices), choices[-1]
