"""`POST /v1/chat/completions` and `POST /v1/completions`."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from service.generate import Answer, Prepared, collect
from service.schemas.sampling import CHAT_FIELDS, COMPLETION_FIELDS
from service.state import ServiceState, State

router = APIRouter()

#: nginx's code for a client that closed the connection; nobody is there to read it, but the count names it.
_CLIENT_GONE = 499
_STREAM_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
_BAD_REQUEST = 400
#: Whose request it is, where the body does not say.
_USER = "x-graft-user"


@router.post("/v1/chat/completions")
async def chat_completions(request: Request, state: State) -> Response:
    """Answer a conversation, by a base model or an adapter."""
    raw = await request.body()
    prepared = await state.generator.prepare(
        "/v1/chat/completions", raw, CHAT_FIELDS, user=request.headers.get(_USER)
    )
    return await _respond(request, state, prepared)


@router.post("/v1/completions")
async def completions(request: Request, state: State) -> Response:
    """Continue a text, by a base model or an adapter."""
    raw = await request.body()
    prepared = await state.generator.prepare(
        "/v1/completions", raw, COMPLETION_FIELDS, user=request.headers.get(_USER)
    )
    return await _respond(request, state, prepared)


async def _respond(request: Request, state: ServiceState, prepared: Prepared) -> Response:
    # Starlette itself ends a streamed response whose client has left; before the first byte that is our part.
    try:
        async with _cancelled_when_gone(request):
            answer = await state.generator.answer(prepared)
            if prepared.stream and answer.status < _BAD_REQUEST:
                return StreamedAnswer(answer)
            body = await collect(answer)
            return Response(body, answer.status, _version(answer), "application/json")
    except _ClientGone:
        return Response(status_code=_CLIENT_GONE)


class StreamedAnswer(StreamingResponse):
    """An answer passed on as it arrives, and released whatever becomes of the client."""

    def __init__(self, answer: Answer) -> None:
        headers = _STREAM_HEADERS | _version(answer)
        super().__init__(answer.body, answer.status, headers, answer.content_type)
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._answer.release()


def _version(answer: Answer) -> dict[str, str]:
    return {"x-graft-version": answer.version}


class _ClientGone(Exception):
    """Nobody waits for the response any more."""


@asynccontextmanager
async def _cancelled_when_gone(request: Request) -> AsyncIterator[None]:
    """Cancel what is inside, and raise _ClientGone, when the client disconnects. The body must have been read."""
    inside = asyncio.current_task()
    assert inside is not None
    gone = False

    async def listen() -> None:
        nonlocal gone
        while (await request.receive())["type"] != "http.disconnect":
            pass
        gone = True
        inside.cancel()

    listener = asyncio.create_task(listen())
    try:
        yield
    except asyncio.CancelledError:
        if not gone:
            raise
        inside.uncancel()
        raise _ClientGone from None
    finally:
        listener.cancel()
