"""What is asked of models: chat, completions, responses, messages, tokens. vLLM's own paths, our names in front."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from functools import partial
from http import HTTPStatus
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse
from fastapi.routing import APIRoute
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from adapters.errors import GraftError, Overloaded
from service.errors import error_response
from service.exchange import Answer, Prepared, collect
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
from service.state import ServiceState, state_of, tenant_of


class _Plain(APIRoute):
    """A route that is given the request and nothing else: no first token waits for what FastAPI does around others.

    That is parameters, two stacks of exits and a second door for exceptions, through which every chunk would go.
    """

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        super().__init__(path, endpoint, **options)
        self.app = partial(_serve, endpoint)


async def _serve(
    endpoint: Callable[[Request], Coroutine[Any, Any, Response]],
    scope: Scope,
    receive: Receive,
    send: Send,
) -> None:
    response = await endpoint(Request(scope, receive))
    await response(scope, receive, send)


router = APIRouter(route_class=_Plain)

#: nginx's code for a client that closed the connection; nobody is there to read it, but the count names it.
_CLIENT_GONE = 499
_STREAM_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
#: Whose request it is, where the body does not say.
_USER = "x-graft-user"


@router.post("/v1/chat/completions")
async def chat_completions(request: Request) -> Response:
    """Answer a conversation, by a base model or an adapter."""
    return await _respond(request, CHAT)


@router.post("/v1/completions")
async def completions(request: Request) -> Response:
    """Continue a text, by a base model or an adapter."""
    return await _respond(request, COMPLETIONS)


@router.post("/v1/responses")
async def responses(request: Request) -> Response:
    """Answer a conversation, in the words of OpenAI's newer endpoint. Nothing is stored."""
    return await _respond(request, RESPONSES)


@router.post("/v1/messages")
async def messages(request: Request) -> Response:
    """Answer a conversation, in the words of Anthropic's endpoint."""
    return await _respond(request, MESSAGES)


@router.post("/v1/messages/count_tokens")
async def count_tokens(request: Request) -> Response:
    """Say how many tokens a conversation comes to."""
    return await _respond(request, COUNT_TOKENS)


@router.post("/tokenize")
@router.post("/v1/tokenize", include_in_schema=False)
async def tokenize(request: Request) -> Response:
    """Turn a text or a conversation into tokens."""
    return await _respond(request, TOKENIZE)


@router.post("/detokenize")
@router.post("/v1/detokenize", include_in_schema=False)
async def detokenize(request: Request) -> Response:
    """Turn tokens into text."""
    return await _respond(request, DETOKENIZE)


async def _respond(request: Request, endpoint: Endpoint) -> Response:
    state = state_of(request)
    try:
        raw = await request.body()
        prepared = await state.generator.prepare(
            endpoint, raw, tenant=tenant_of(request), user=request.headers.get(_USER)
        )
        return await _answer(request, state, prepared)
    except Overloaded as error:
        response = error_response(error, endpoint.dialect)
        response.headers.update(state.rates.headers())
        return response
    except GraftError as error:
        if endpoint.dialect != "messages":
            raise
        return error_response(error, endpoint.dialect)


async def _answer(request: Request, state: ServiceState, prepared: Prepared) -> Response:
    try:
        async with _cancelled_when_gone(request.receive):
            answer = await state.generator.answer(prepared)
            if prepared.stream and answer.status < HTTPStatus.BAD_REQUEST:
                return StreamedAnswer(answer, state.rates.headers())
            body = await collect(answer)
            headers = _version(answer) | state.rates.headers()
            return Response(body, answer.status, headers, "application/json")
    except _ClientGone:
        return Response(status_code=_CLIENT_GONE)


class StreamedAnswer(StreamingResponse):
    """An answer passed on as it arrives, and released whatever becomes of the client."""

    def __init__(self, answer: Answer, more: dict[str, str] | None = None) -> None:
        headers = _STREAM_HEADERS | _version(answer) | (more or {})
        super().__init__(answer.body, answer.status, headers, answer.content_type)
        self._answer = answer
        self._begun = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002  ASGI's
        # As Starlette does, but without a group of tasks, for which a first token would wait.
        try:
            async with _cancelled_when_gone(receive):
                await self.stream_response(send)
        except _ClientGone:
            pass
        except OSError:
            raise ClientDisconnect from None
        except asyncio.CancelledError:
            # Not by a client that has left: the service stops.
            if self._begun:
                await send({"type": "http.response.body", "body": self._answer.farewell()})
            raise
        finally:
            await self._answer.release()

    async def stream_response(self, send: Send) -> None:
        self._begun = True
        await super().stream_response(send)


def _version(answer: Answer) -> dict[str, str]:
    return {"x-graft-version": answer.version}


class _ClientGone(Exception):
    """Nobody waits for the response any more."""


@asynccontextmanager
async def _cancelled_when_gone(receive: Receive) -> AsyncIterator[None]:
    """Cancel what is inside, and raise _ClientGone, when the client disconnects. The body must have been read."""
    inside = asyncio.current_task()
    assert inside is not None
    gone = False

    async def listen() -> None:
        nonlocal gone
        while (await receive())["type"] != "http.disconnect":
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
