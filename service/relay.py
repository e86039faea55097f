"""The engine's bytes on their way to the client: passed on event by event, read no more than needed.

An event that the engine did not finish is kept back, so that what comes after it, an error perhaps, is an event of its
own. Bytes that are passed on are the engine's, unchanged.
"""

import json
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass

_END_OF_EVENT = b"\n\n"
_DONE = b"data: [DONE]\n\n"
_USAGE_KEY = b'"usage":'
#: An object with at most one level of objects inside. Within a JSON string the quotes of the key would be escaped.
_USAGE = re.compile(rb'"usage":\s*(\{[^{}]*(?:\{[^{}]*\}[^{}]*)*\})')


@dataclass(slots=True)
class Meter:
    """What the bytes that were passed on say of tokens."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    #: Events seen, but for OpenAI's `[DONE]`. Where a stream says nothing of its usage, each of them is a token.
    events: int = 0
    _told: bool = False

    @property
    def generated(self) -> int:
        """Tokens that were generated, as far as one can know."""
        return self.completion_tokens if self._told else self.events

    def see(self, body: bytes) -> None:
        """Read what is about to be passed on: a whole body, or whole events of a stream."""
        self.events += body.count(_END_OF_EVENT) - body.count(_DONE)
        if _USAGE_KEY not in body:
            return
        for found in _USAGE.finditer(body):
            try:
                usage = json.loads(found[1])
            except ValueError:
                continue
            self._told = True
            prompt = usage.get("prompt_tokens", usage.get("input_tokens"))
            completion = usage.get("completion_tokens", usage.get("output_tokens"))
            if isinstance(prompt, int):
                self.prompt_tokens = prompt
            if isinstance(completion, int):
                self.completion_tokens = completion


async def whole_events(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The same bytes, cut between events. What follows the last whole event comes only where the engine ended there."""
    cutter = _Cutter()
    if events := cutter.cut(first):
        yield events
    async for chunk in rest:
        if events := cutter.cut(chunk):
            yield events
    if cutter.held:
        yield cutter.held


class _Cutter:
    """Keeps back what is not a whole event yet."""

    def __init__(self) -> None:
        self.held = b""

    def cut(self, chunk: bytes) -> bytes:
        if not self.held and chunk.endswith(_END_OF_EVENT):
            return chunk
        chunk = self.held + chunk
        end = chunk.rfind(_END_OF_EVENT)
        if end < 0:
            self.held = chunk
            return b""
        end += len(_END_OF_EVENT)
        self.held = chunk[end:]
        return chunk[:end]
