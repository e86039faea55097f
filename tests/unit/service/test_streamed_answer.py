import asyncio
import json
from collections.abc import AsyncIterator

import pytest
from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive, Scope, Send

from service.exchange import Answer
from service.middleware import LastResort
from service.routes.completions import StreamedAnswer

SCOPE = {"type": "http", "headers": []}


async def waits() -> Message:
    await asyncio.Event().wait()
    raise AssertionError("never")


async def test_an_answer_is_released_also_when_the_client_left_before_the_first_byte() -> None:
    released: list[bool] = []
    started: list[bool] = []

    async def body() -> AsyncIterator[bytes]:
        started.append(True)
        yield b"data: x\n\n"

    async def release() -> None:
        released.append(True)

    async def gone(_message: Message) -> None:
        raise OSError("the client is gone")

    answer = Answer(200, "text/event-stream", "bot@1", body(), release)
    with pytest.raises(ClientDisconnect):
        await StreamedAnswer(answer)(SCOPE, waits, gone)
    assert (started, released) == ([], [True])


async def cut(app, scope: Scope, *, after: int) -> list[Message]:
    """What a client is sent by an application whose server stops, and does not wait any longer."""
    sent: list[Message] = []
    enough = asyncio.Event()

    async def send(message: Message) -> None:
        sent.append(message)
        if len(sent) >= after:
            enough.set()

    task = asyncio.create_task(LastResort(app)(scope, waits, send))
    if after:
        await enough.wait()
    await asyncio.sleep(0)
    task.cancel()
    await task
    return sent


async def released() -> None:
    pass


async def test_a_stream_whose_client_leaves_is_given_up_and_no_error() -> None:
    left, ended = asyncio.Event(), []

    async def body() -> AsyncIterator[bytes]:
        try:
            yield b"data: x\n\n"
            left.set()
            await asyncio.Event().wait()
        finally:
            ended.append("body")

    async def release() -> None:
        ended.append("released")

    async def receive() -> Message:
        await left.wait()
        return {"type": "http.disconnect"}

    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    answer = Answer(200, "text/event-stream", "bot@1", body(), release, lambda: b"data: bye\n\n")
    await StreamedAnswer(answer)(SCOPE, receive, send)
    assert [message.get("body") for message in sent] == [None, b"data: x\n\n"]
    assert ended == ["body", "released"]
    assert not asyncio.current_task().cancelling()


async def test_a_stream_that_the_server_cannot_wait_for_ends_with_an_event_that_says_so() -> None:
    async def body() -> AsyncIterator[bytes]:
        yield b"data: x\n\n"
        await asyncio.Event().wait()

    answer = Answer(200, "text/event-stream", "bot@1", body(), released, lambda: b"data: bye\n\n")
    start, *chunks = await cut(StreamedAnswer(answer), SCOPE, after=2)
    assert start["status"] == 200
    assert [chunk["body"] for chunk in chunks] == [b"data: x\n\n", b"data: bye\n\n"]
    assert not chunks[-1].get("more_body")


async def test_whoever_has_been_told_nothing_by_then_is_told_when_to_come_back() -> None:
    async def app(_scope: Scope, _receive: Receive, _send: Send) -> None:
        await asyncio.Event().wait()

    start, body = await cut(app, SCOPE | {"method": "POST", "path": "/"}, after=0)
    assert start["status"] == 503
    assert (b"retry-after", b"1") in start["headers"]
    assert json.loads(body["body"])["error"]["code"] == "engine_unavailable"
