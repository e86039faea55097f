"""What the service and its tokenizer process say to each other: one JSON object a line, over pipes."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

from pydantic import Field, TypeAdapter

from adapters.errors import Details


@dataclass(frozen=True, slots=True, kw_only=True)
class Count:
    """How many tokens do the rows of a checked file come to?"""

    kind: Literal["count"] = "count"
    #: Of the prepared base model.
    directory: Path
    data: Path
    max_seq_length: int
    #: Look at so many distinct rows, and for so long, at most.
    most_rows: int
    most_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Show:
    """What does training see of the first rows of a checked file?"""

    kind: Literal["show"] = "show"
    directory: Path
    data: Path
    max_seq_length: int
    rows: int
    #: Tokens of a row that are shown.
    most_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """How many rows have at most so many tokens, and more than the bar before."""

    up_to: int
    rows: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """What was found in the distinct rows that were looked at. A row may become several sequences."""

    kind: Literal["counted"] = "counted"
    rows: int
    #: Whether these are all of them.
    complete: bool
    #: Rows that training leaves out.
    too_long: int
    #: Of the others.
    tokens: int
    trained_tokens: int
    #: What an optimizer step takes together or not at all, of the others too.
    samples: int
    #: Tokens of the longest sequence.
    longest: int
    #: By the longest sequence of each row.
    histogram: tuple[Bar, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """A stretch of tokens that are trained, with one weight in the loss."""

    start: int
    stop: int
    weight: float
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """One sequence as training sees it."""

    #: Line of the file, and which side of a comparison.
    line: int
    side: Literal["chosen", "rejected"] | None
    num_tokens: int
    num_trained_tokens: int
    too_long: bool
    #: The first of its tokens; those that are in no span are context.
    input_ids: tuple[int, ...]
    tokens: tuple[str, ...]
    spans: tuple[Span, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview:
    """The first rows."""

    kind: Literal["preview"] = "preview"
    sequences: tuple[Shown, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """A row cannot be trained on with this base model."""

    kind: Literal["refused"] = "refused"
    message: str
    details: Details | None = None


Question: TypeAlias = Annotated[Count | Show, Field(discriminator="kind")]
Answer: TypeAlias = Annotated[Counted | Preview | Refused, Field(discriminator="kind")]

_questions: TypeAdapter[Count | Show] = TypeAdapter(Question)
_answers: TypeAdapter[Counted | Preview | Refused] = TypeAdapter(Answer)


def encode_question(question: Count | Show) -> bytes:
    """One line, newline included."""
    return _questions.dump_json(question) + b"\n"


def decode_question(line: bytes) -> Count | Show:
    """The inverse of `encode_question`."""
    return _questions.validate_json(line)


def encode_answer(answer: Counted | Preview | Refused) -> bytes:
    """One line, newline included."""
    return _answers.dump_json(answer) + b"\n"


def decode_answer(line: bytes) -> Counted | Preview | Refused:
    """The inverse of `encode_answer`."""
    return _answers.validate_json(line)
