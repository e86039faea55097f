"""R17: whatever one tenant asks of a model, others are answered, and the engine sees nothing that it must not."""

import json
from typing import Any

import pytest

from tests.security.house import House
from tests.security.poison import CHAT, FORBIDDEN, HARMLESS, PLAIN, media
from tests.support.samples import BASE

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_the_corpus_is_as_large_as_it_says() -> None:
    assert sum(map(len, FORBIDDEN.values())) >= 300
    assert sum(map(len, HARMLESS.values())) >= 20


@pytest.mark.parametrize("kind", FORBIDDEN)
async def test_what_is_forbidden_never_reaches_the_engine_and_others_are_answered(
    house: House, kind: str
) -> None:
    for path, body in FORBIDDEN[kind]:
        before = len(house.engine.bodies)
        await house.refused(await house.ask("POST", path, body), 400, 404, 413)
        assert len(house.engine.bodies) == before, (path, str(body)[:300])
        await house.canary()


@pytest.mark.parametrize("kind", HARMLESS)
async def test_what_is_harmless_is_answered_and_so_are_others(house: House, kind: str) -> None:
    for path, body in HARMLESS[kind]:
        answer = await house.ask("POST", path, body)
        assert answer.status == 200, answer.body
        await house.canary()


async def test_code_in_what_is_said_reaches_the_engine_as_text(house: House) -> None:
    for path, body in HARMLESS["code in what is said"]:
        await house.ask("POST", path, body)
        assert house.engine.bodies[-1]["messages"] == body["messages"]


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "", "x/y;z"]
)
async def test_the_type_that_a_body_claims_makes_it_nothing_else(house: House, kind: str) -> None:
    """It is read as JSON or not at all; to vLLM it goes as JSON, whatever it came as."""
    headers = {"content-type": kind}
    good = await house.ask("POST", CHAT, PLAIN[CHAT], headers=headers)
    assert good.status == 200
    for bad in (b"model=tiny-base", b"--x--", b'{"n": 999}'):
        await house.refused(await house.ask("POST", CHAT, bad, headers=headers), 400)


async def test_a_field_that_comes_twice_is_judged_as_the_engine_will_read_it(house: House) -> None:
    twice = b'{"model": "%s", "messages": [], "n": 1, "n": 16384}' % BASE.encode()
    before = len(house.engine.bodies)
    await house.refused(await house.ask("POST", CHAT, twice), 400)
    assert len(house.engine.bodies) == before
    other = b'{"model": "%s", "messages": [], "n": 16384, "n": 1}' % BASE.encode()
    await house.ask("POST", CHAT, other)
    assert house.engine.bodies[-1]["n"] == 1


async def test_what_the_engine_remembers_of_prompts_is_kept_apart_by_tenant(house: House) -> None:
    for key in ("ours", "theirs"):
        await house.ask("POST", CHAT, PLAIN[CHAT], key=key)
        assert house.engine.bodies[-1]["cache_salt"] == key
    await house.ask("POST", "/tokenize", PLAIN["/tokenize"])
    assert "cache_salt" not in house.engine.bodies[-1]


@pytest.mark.parametrize("url", ["data:image/png;base64,AAAA", "http://169.254.169.254/"])
async def test_no_picture_is_fetched_whatever_it_is_called(house: House, url: str) -> None:
    before = len(house.engine.bodies)
    for path, body in media(url):
        answer = await house.ask("POST", path, body)
        await house.refused(answer, 400)
        assert "text" in answer.json()["error"]["message"]
    assert len(house.engine.bodies) == before


async def test_what_a_tool_was_told_is_no_picture(house: House) -> None:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    turns: list[dict[str, Any]] = [
        {"role": "assistant", "content": None, "tool_calls": [call], "audio": None},
        {"role": "tool", "tool_call_id": "c", "content": json.dumps({"type": "image_url"})},
        {"role": "user", "content": [{"type": "text", "text": "image_url"}]},
    ]
    answer = await house.ask("POST", CHAT, {"model": BASE, "messages": turns})
    assert answer.status == 200
    used = {"type": "tool_use", "id": "t", "name": "f", "input": {"image_url": "x"}}
    turns = [{"role": "assistant", "content": [used]}, {"role": "user", "content": "so?"}]
    asked = {"model": BASE, "messages": turns, "max_tokens": 9}
    assert (await house.ask("POST", "/v1/messages", asked)).status == 200
