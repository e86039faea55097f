"""Answers that the engine has stopped because they looped, told as OpenAI's clients understand it.

vLLM ends such a choice with the `finish_reason` "repetition", which OpenAI does not have. Here it is "length", as of
any answer that is cut off, and `stopped_by` says by what.
"""

import json
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

STOPPED_BY: Final = "repetition_guard"
_ENGINES_REASON: Final = "repetition"
#: Quotes in what the model says are escaped, so that only a value can be this.
_SIGN: Final = b'"repetition"'
_EVENT, _END = b"data: ", b"\n\n"


async def marked(body: AsyncIterator[bytes], stopped: Callable[[], None]) -> AsyncIterator[bytes]:
    """A whole answer; `stopped` is called for each choice that looped."""
    raw = b"".join([chunk async for chunk in body])
    yield _mark(raw, stopped) if _SIGN in raw else raw


async def marked_events(
    body: AsyncIterator[bytes], stopped: Callable[[], None]
) -> AsyncIterator[bytes]:
    """A streamed answer. Events pass as they came, but for those that end a choice that looped."""
    rest = b""
    async for chunk in body:
        events, end, rest = (rest + chunk).rpartition(_END)
        if _SIGN in events:
            events = _END.join(_mark_event(event, stopped) for event in events.split(_END))
        if end:
            yield events + end
    if rest:
        yield rest


def _mark_event(event: bytes, stopped: Callable[[], None]) -> bytes:
    if _SIGN not in event or not event.startswith(_EVENT):
        return event
    return _EVENT + _mark(event.removeprefix(_EVENT), stopped)


def _mark(raw: bytes, stopped: Callable[[], None]) -> bytes:
    try:
        answer: Any = json.loads(raw)
        choices = [one for one in answer["choices"] if one.get("finish_reason") == _ENGINES_REASON]
    except (ValueError, KeyError, TypeError, AttributeError):
        return raw
    for choice in choices:
        choice |= {"finish_reason": "length", "stopped_by": STOPPED_BY}
        stopped()
    return json.dumps(answer).encode() if choices else raw
