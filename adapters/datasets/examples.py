"""What a row of training data means, whatever shape it came in."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One turn of a conversation. `trained` says whether its tokens count in the loss."""

    role: str
    content: str
    trained: bool = False


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


Example = Conversation | Passage
