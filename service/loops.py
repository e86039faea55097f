"""Answers that the engine has stopped because they looped, told as OpenAI's clients understand it.

vLLM ends such a choice with the `finish_reason` "repetition", which OpenAI does not have. Here it is "length", as of
any answer that is cut off, and `stopped_by` says by what.
"""

import json
from collections.abc import Callable
from typing import Any, Final

STOPPED_BY: Final = "repetition_guard"
_ENGINES_REASON: Final = "repetition"
#: Quotes in what the model says are escaped, so that only a value can be this.
_SIGN: Final = b'"repetition"'
_EVENT, _END = b"data: ", b"\n\n"


def mark(body: bytes, stopped: Callable[[], None]) -> bytes:
    """A whole answer; `stopped` is called for each choice that looped."""
    return _mark(body, stopped) if _SIGN in body else body


def mark_events(events: bytes, stopped: Callable[[], None]) -> bytes:
    """Whole events of a streamed answer. They stay as they came, but for those that end a choice that looped."""
    if _SIGN not in events:
        return events
    return _END.join(_mark_event(event, stopped) for event in events.split(_END))


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
