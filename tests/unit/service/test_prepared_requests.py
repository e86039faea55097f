"""What becomes of a request before it waits: who answers, what is filled in, and who looks on."""

import json
from types import SimpleNamespace
from typing import Any

import pytest

from adapters.errors import InvalidValue
from adapters.settings import Quota
from service.catalog import Target
from service.exchange import Prepared
from service.generate import Generator
from service.rates import Rates
from service.schemas.endpoints import (
    CHAT,
    COMPLETIONS,
    COUNT_TOKENS,
    DETOKENIZE,
    MESSAGES,
    RESPONSES,
    TOKENIZE,
    Endpoint,
)
from service.settings import ServiceSettings

WORDS = {"messages": [{"role": "user", "content": "hello"}]}


class KnowsOne:
    """A catalog in which every name means the same; it notes whose requests they are."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self.tickets: list[str] = []

    async def resolve(self, _model: str, ticket: str) -> Target:
        self.tickets.append(ticket)
        return self._target


def version(name: str) -> Any:
    return SimpleNamespace(name=name, adapter=name.partition("@")[0])


def target(*defaults: dict[str, Any], shadow: dict[str, Any] | None = None) -> Target:
    looking_on = None if shadow is None else Target("base", version("bot@1"), (shadow,))
    return Target("base", version("bot@2"), defaults, looking_on)


async def prepared(
    means: Target | KnowsOne,
    endpoint: Endpoint = CHAT,
    *,
    header: str | None = None,
    settings: ServiceSettings | None = None,
    **body: Any,
) -> Prepared:
    catalog: Any = means if isinstance(means, KnowsOne) else KnowsOne(means)
    nothing: Any = None
    generator = Generator(
        settings=settings or ServiceSettings(),
        catalog=catalog,
        engines=nothing,
        admissions={},
        shadows=nothing,
        metrics=nothing,
        rates=Rates(Quota()),
    )
    raw = json.dumps({"model": "bot", **body}).encode()
    return await generator.prepare(endpoint, raw, tenant="acme", user=header)


async def test_a_shadow_asks_for_the_same_in_the_name_of_the_same_tenant() -> None:
    got = await prepared(
        target({"top_p": 0.5}, shadow={"top_k": 3}), **WORDS, stream=True, stream_options={}
    )
    shadow = got.shadow
    assert shadow is not None
    assert (got.tenant, shadow.tenant) == ("acme", "acme")
    assert (got.kind, shadow.kind) == ("adapter", "shadow")
    assert (got.stream, shadow.stream, shadow.endpoint, shadow.shadow) == (True, False, CHAT, None)
    assert json.loads(got.body) == {
        "model": "bot@2",
        "top_p": 0.5,
        "stream": True,
        "stream_options": {},
        "cache_salt": "acme",
        **WORDS,
    }
    assert json.loads(shadow.body) == {
        "model": "bot@1",
        "top_k": 3,
        "cache_salt": "acme",
        **WORDS,
    }


@pytest.mark.parametrize(
    ("endpoint", "body", "shadowed"),
    [
        (CHAT, WORDS, True),
        (COMPLETIONS, {"prompt": "hello"}, True),
        (RESPONSES, {"input": "hello"}, True),
        (MESSAGES, {**WORDS, "max_tokens": 5}, True),
        (COUNT_TOKENS, WORDS, False),
        (TOKENIZE, {"prompt": "hello"}, False),
        (DETOKENIZE, {"tokens": [1]}, False),
    ],
)
async def test_a_shadow_looks_on_where_a_model_speaks(
    endpoint: Endpoint, body: dict[str, Any], shadowed: bool
) -> None:
    got = await prepared(target(shadow={"temperature": 0.5}), endpoint, **body)
    assert (got.shadow is not None) == shadowed


async def test_what_is_asked_for_too_much_is_refused_whoever_asks_for_it() -> None:
    few = ServiceSettings(max_output_tokens=10)
    with pytest.raises(InvalidValue, match="max_tokens"):
        await prepared(target(), settings=few, **WORDS, max_tokens=11)
    with pytest.raises(InvalidValue, match="max_tokens"):
        await prepared(target({"max_tokens": 11}), settings=few, **WORDS)
    asked = await prepared(target({"max_tokens": 11}), settings=few, **WORDS, max_tokens=10)
    assert json.loads(asked.body)["max_tokens"] == 10


async def test_a_shadow_that_would_ask_for_too_much_is_left_out() -> None:
    few = ServiceSettings(max_output_tokens=10)
    got = await prepared(target(shadow={"max_tokens": 11}), settings=few, **WORDS)
    assert got.shadow is None


@pytest.mark.parametrize(
    ("endpoint", "body", "expected"),
    [
        (CHAT, {"safety_identifier": "a", "user": "b"}, "a"),
        (CHAT, {"user": "b"}, "b"),
        (CHAT, {"metadata": {"user_id": "c"}}, "head"),
        (MESSAGES, {"metadata": {"user_id": "c"}}, "c"),
        (MESSAGES, {"metadata": {"user_id": 5}}, "head"),
        (CHAT, {"user": ""}, "head"),
    ],
)
async def test_whose_request_it_is(endpoint: Endpoint, body: dict[str, Any], expected: str) -> None:
    catalog = KnowsOne(target())
    await prepared(catalog, endpoint, header="head", **WORDS, **body)
    assert catalog.tickets == [expected]


async def test_a_request_of_nobody_in_particular_is_nobodys_twice() -> None:
    catalog = KnowsOne(target())
    for _ in range(2):
        await prepared(catalog, **WORDS)
    assert len({*catalog.tickets, ""}) == 3
