from collections.abc import AsyncIterator

import pytest
from starlette.requests import ClientDisconnect
from starlette.types import Message

from service.generate import Answer
from service.routes.completions import StreamedAnswer

SCOPE = {"type": "http", "asgi": {"spec_version": "2.4"}, "headers": []}


async def never() -> Message:
    raise AssertionError("nobody reads")


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
        await StreamedAnswer(answer)(SCOPE, never, gone)
    assert (started, released) == ([], [True])
