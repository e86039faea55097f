import json
from collections.abc import AsyncIterator

import pytest
from hypothesis import given, strategies as st

from adapters.errors import EngineFault
from service.errors import error_event
from service.relay import Meter, whole_events
from tests.support import fake_answers

BODY = {
    "model": "bot@1",
    "messages": [{"role": "user", "content": 'a "usage":{"completion_tokens":99} b\n\nc'}],
    "stream_options": {"include_usage": True},
}
STREAMS = {
    "chat": fake_answers.chat_events,
    "completions": fake_answers.completion_events,
    "responses": fake_answers.response_events,
    "messages": fake_answers.message_events,
}


async def cut(data: bytes, at: list[int]) -> AsyncIterator[bytes]:
    edges = [0, *sorted(at), len(data)]
    for start, stop in zip(edges, edges[1:], strict=False):  # noqa: RUF007  empty chunks are wanted too
        yield data[start:stop]


@given(st.sampled_from(sorted(STREAMS)), st.lists(st.integers(0, 900), max_size=40))
async def test_however_the_bytes_are_cut_whole_events_come_out_and_all_of_them(kind, at):
    events = list(STREAMS[kind](BODY))
    data = b"".join(events)
    chunks = cut(data, [min(edge, len(data)) for edge in at])
    passed = [part async for part in whole_events(await anext(chunks), chunks)]
    assert b"".join(passed) == data
    assert all(part.endswith(b"\n\n") for part in passed)


async def test_half_an_event_is_kept_back_from_an_engine_that_dies() -> None:
    async def dying() -> AsyncIterator[bytes]:
        yield b'data: {"whole": 1}\n\ndata: {"ha'
        raise EngineFault("dead")

    chunks = dying()
    passing = whole_events(await anext(chunks), chunks)
    assert await anext(passing) == b'data: {"whole": 1}\n\n'
    with pytest.raises(EngineFault):
        await anext(passing)


async def test_what_the_engine_ended_with_comes_even_if_it_is_no_whole_event() -> None:
    async def ended() -> AsyncIterator[bytes]:
        yield b"data: 1\n\n"
        yield b"data: 2"

    chunks = ended()
    passed = [part async for part in whole_events(await anext(chunks), chunks)]
    assert passed == [b"data: 1\n\n", b"data: 2"]


@pytest.mark.parametrize("kind", sorted(STREAMS))
def test_tokens_are_what_a_stream_says_of_its_usage(kind: str) -> None:
    meter = Meter()
    for event in STREAMS[kind](BODY):
        meter.see(event)
    assert meter.prompt_tokens == len(fake_answers.said(BODY).split())
    assert meter.generated == len(fake_answers.tokens(BODY))


@pytest.mark.parametrize("whole", [fake_answers.chat, fake_answers.response, fake_answers.message])
@pytest.mark.parametrize("separators", [(", ", ": "), (",", ":")])
def test_tokens_are_what_an_answer_says_of_its_usage(whole, separators) -> None:
    meter = Meter()
    meter.see(json.dumps(whole(BODY), separators=separators).encode())
    assert meter.generated == len(fake_answers.tokens(BODY))


def test_a_stream_that_does_not_say_is_counted_by_its_events() -> None:
    meter = Meter()
    for event in fake_answers.chat_events(BODY | {"stream_options": None}):
        meter.see(event)
    assert (meter.prompt_tokens, meter.generated) == (0, len(fake_answers.tokens(BODY)))


def test_an_error_is_an_event_in_the_words_of_each_endpoint() -> None:
    error = EngineFault("it broke", param="x")
    chat = error_event(error, "completions", number=3).decode()
    assert json.loads(chat.removeprefix("data: "))["error"]["message"] == "it broke"
    kind, _, data = error_event(error, "responses", number=3).decode().partition("\ndata: ")
    assert kind == "event: error"
    assert json.loads(data) == {
        "type": "error",
        "code": "engine_error",
        "message": "it broke",
        "param": "x",
        "sequence_number": 3,
    }
    kind, _, data = error_event(error, "messages", number=3).decode().partition("\ndata: ")
    assert kind == "event: error"
    told = json.loads(data)
    assert (told["type"], told["error"]["message"]) == ("error", "it broke")
