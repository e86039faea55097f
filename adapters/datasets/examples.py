"""What a row of training data means, whatever shape it came in."""

import hashlib
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass

_DIGEST_BYTES = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One turn of a conversation. `weight` says how much its tokens count in the loss, 0 to 1."""

    role: str
    content: str
    weight: float = 0.0

    @property
    def trained(self) -> bool:
        """Whether its tokens count at all."""
        return self.weight > 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """Rendered through the base model's chat template; loss on the trained messages and their end-of-turn token."""

    line: int
    messages: tuple[Message, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Passage:
    """Plain text for continued pre-training; loss on every token."""

    line: int
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Two conversations with one prompt: the reply that was preferred, and the one that was not."""

    line: int
    chosen: Conversation
    rejected: Conversation


Example = Conversation | Passage | Comparison


def fingerprint(example: Example) -> bytes:
    """Equal for examples that say the same: case is kept, Unicode forms and runs of whitespace are made equal."""
    mark = hashlib.blake2b(digest_size=_DIGEST_BYTES)
    for label, text in _parts(example):
        same = " ".join(unicodedata.normalize("NFC", text).split())
        mark.update(f"{label} {len(same)} {same}".encode())
    return mark.digest()


def _parts(example: Example) -> Iterator[tuple[str, str]]:
    match example:
        case Passage():
            yield "text", example.text
        case Conversation():
            yield from ((f"{one.role}{one.weight:g}", one.content) for one in example.messages)
        case Comparison():
            for label, side in (("chosen", example.chosen), ("rejected", example.rejected)):
                yield from ((f"{label} {part}", text) for part, text in _parts(side))
