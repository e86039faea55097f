"""What every engine must do, whoever plays it. Run against the fake here and against vLLM in tests/e2e."""

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from adapters.errors import EngineFault, Unavailable
from service.defaults import GUARD
from service.engine.client import VllmEngine

CHAT = "/v1/chat/completions"


def chat(model: str, text: str = "What is the capital of France?", **more: object) -> bytes:
    messages = [{"role": "user", "content": text}]
    return json.dumps(
        {"model": model, "messages": messages, "temperature": 0, "max_tokens": 8, **more}
    ).encode()


async def ask(engine: VllmEngine, body: bytes) -> tuple[int, dict[str, object]]:
    async with engine.post(CHAT, body) as reply:
        return reply.status, json.loads(b"".join([chunk async for chunk in reply.body]))


async def it_answers_as_the_model_that_was_named(
    engine: VllmEngine, base: str, adapter: Path
) -> None:
    assert await engine.healthy()
    status, answer = await ask(engine, chat(base))
    assert (status, answer["model"]) == (200, base)


async def it_loads_an_adapter_once_and_then_answers_as_it(
    engine: VllmEngine, base: str, adapter: Path
) -> None:
    await engine.load("suite-a@1", adapter)
    await engine.load("suite-a@1", adapter)
    assert "suite-a@1" in await engine.loaded()
    status, answer = await ask(engine, chat("suite-a@1"))
    assert (status, answer["model"]) == (200, "suite-a@1")


async def it_forgets_an_adapter_that_was_unloaded(
    engine: VllmEngine, base: str, adapter: Path
) -> None:
    await engine.load("suite-b@1", adapter)
    await engine.unload("suite-b@1")
    await engine.unload("suite-b@1")
    assert "suite-b@1" not in await engine.loaded()
    status, answer = await ask(engine, chat("suite-b@1"))
    assert status == 404
    assert "error" in answer


async def it_refuses_a_directory_without_an_adapter(
    engine: VllmEngine, base: str, adapter: Path
) -> None:
    with pytest.raises(EngineFault):
        await engine.load("suite-c@1", adapter / "nowhere")
    assert await engine.healthy()


async def it_streams_events_that_end_with_done(
    engine: VllmEngine, base: str, adapter: Path
) -> None:
    async with engine.post(CHAT, chat(base, stream=True)) as reply:
        assert (reply.status, reply.content_type.partition(";")[0]) == (200, "text/event-stream")
        text = b"".join([chunk async for chunk in reply.body]).decode()
    events = [line.removeprefix("data: ") for line in text.split("\n\n") if line]
    assert events[-1] == "[DONE]"
    assert {json.loads(event)["model"] for event in events[:-1]} == {base}


async def it_says_how_it_is_in_the_words_of_prometheus(
    engine: VllmEngine, base: str, adapter: Path
) -> None:
    await ask(engine, chat(base))
    text = await engine.metrics()
    assert "# TYPE vllm:num_requests_running gauge" in text
    assert "vllm:generation_tokens_total{" in text


async def it_says_which_field_is_out_of_range(engine: VllmEngine, base: str, adapter: Path) -> None:
    status, answer = await ask(engine, chat(base, temperature=9))
    assert status == 400
    assert "temperature" in str(answer["error"])


async def it_survives_a_reader_who_leaves(engine: VllmEngine, base: str, adapter: Path) -> None:
    async with engine.post(CHAT, chat(base, stream=True, max_tokens=200)) as reply:
        async for _ in reply.body:
            break
    await asyncio.sleep(0.1)
    assert await engine.healthy()


async def it_ends_what_loops_where_it_is_asked_to(
    engine: VllmEngine, base: str, adapter: Path
) -> None:
    forced = {"allowed_token_ids": [17], "max_tokens": 200}  # the same token for ever
    _, endless = await ask(engine, chat(base, **forced))
    assert _reasons(endless) != ["repetition"]
    _, ended = await ask(engine, chat(base, **forced, repetition_detection=dict(GUARD)))
    assert _reasons(ended) == ["repetition"]


def _reasons(answer: dict[str, object]) -> list[str]:
    return [choice["finish_reason"] for choice in answer["choices"]]


async def it_says_what_it_thinks_of_prompts_with_an_adapter_and_without(
    engine: VllmEngine, base: str, adapter: Path
) -> None:
    await engine.load("suite-a@1", adapter)
    prompts = [list(range(300, 320)), [301, 302, 303]]
    with_it, (status, _) = await asyncio.gather(
        engine.logprobs("suite-a@1", prompts),
        ask(engine, chat(base)),  # in the same batch
    )
    assert status == 200
    without = await engine.logprobs(base, prompts)
    assert with_it is not None
    assert without is not None
    for told in (with_it, without):
        assert [len(one) for one in told] == [19, 2]
        assert all(-99 < number <= 0 for one in told for number in one)
    flat = [[number for one in told for number in one] for told in (with_it, without)]
    assert flat[0] != pytest.approx(flat[1], abs=0.01)
    again = await engine.logprobs(base, prompts[::-1])
    assert again is not None
    assert [*again[1], *again[0]] == pytest.approx(flat[1], abs=1e-3)


async def it_says_which_release_it_is(engine: VllmEngine, base: str, adapter: Path) -> None:
    name, _, release = (await engine.build()).partition(" ")
    assert name == "vllm"
    assert release[0].isdecimal()


async def it_takes_no_prompt_that_is_too_long_and_knows_no_stranger(
    engine: VllmEngine, base: str, adapter: Path
) -> None:
    assert await engine.logprobs(base, [[300] * 100_000]) is None
    with pytest.raises(Unavailable):
        await engine.logprobs("suite-d@1", [[300, 301]])


SUITE: Sequence[object] = [
    it_answers_as_the_model_that_was_named,
    it_loads_an_adapter_once_and_then_answers_as_it,
    it_forgets_an_adapter_that_was_unloaded,
    it_refuses_a_directory_without_an_adapter,
    it_streams_events_that_end_with_done,
    it_says_how_it_is_in_the_words_of_prometheus,
    it_says_which_field_is_out_of_range,
    it_survives_a_reader_who_leaves,
    it_ends_what_loops_where_it_is_asked_to,
    it_says_what_it_thinks_of_prompts_with_an_adapter_and_without,
    it_says_which_release_it_is,
    it_takes_no_prompt_that_is_too_long_and_knows_no_stranger,
]


async def an_engine_that_is_not_there_is_unavailable(socket: Path) -> None:
    engine = VllmEngine(socket, "nobody")
    assert not await engine.healthy()
    with pytest.raises(Unavailable):
        await engine.loaded()
    with pytest.raises(Unavailable):
        await ask(engine, chat("nobody"))
    await engine.close()
