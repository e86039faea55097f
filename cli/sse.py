"""Server-sent events from a stream of bytes, however the network cut it.

Own code and not the SDK's decoder, which hides the ids: they are what a reader needs to continue after a break.
"""

import codecs
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

_LINE_END = re.compile(r"\r\n|\n|\r")


@dataclass(frozen=True, slots=True)
class ServerEvent:
    """One event. `id` is that of the last event that had one, as the standard wants it."""

    event: str
    data: str
    id: str


def read_events(chunks: Iterable[bytes]) -> Iterator[ServerEvent]:
    """The complete events in these chunks. An event without its closing blank line was cut off, and is dropped."""
    event, last_id = "", ""
    data: list[str] = []
    for line in _lines(chunks):
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if not line:
            if data:
                yield ServerEvent(event or "message", "\n".join(data), last_id)
            event, data = "", []
        elif name == "event":
            event = value
        elif name == "data":
            data.append(value)
        elif name == "id":
            last_id = value


def _lines(chunks: Iterable[bytes]) -> Iterator[str]:
    """Complete lines only. A line may end in LF, CR or CRLF; a CRLF may be cut in two."""
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    rest = ""
    for chunk in chunks:
        rest += decoder.decode(chunk)
        while (end := _LINE_END.search(rest)) and not _may_be_half(end, rest):
            yield rest[: end.start()]
            rest = rest[end.end() :]
    if rest.endswith("\r"):
        yield rest[:-1]


def _may_be_half(end: re.Match[str], text: str) -> bool:
    return end.group() == "\r" and end.end() == len(text)
