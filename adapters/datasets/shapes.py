"""The shapes a row may have: how each is recognised, and what it means.

A shape is recognised by its required keys, without being told. To add one: a reader, a line in SHAPES, a test.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from adapters.datasets.comparisons import read_openai_preference, read_preference
from adapters.datasets.conversations import conversation, text_or_turns, text_turn
from adapters.datasets.examples import Example, Message, Passage
from adapters.datasets.problems import Fault, listed, nearest, quoted
from adapters.datasets.turns import (
    OPENAI,
    SHAREGPT,
    Dialect,
    Fields,
    Turn,
    missing_field,
    read_text,
    read_turns,
    refuse_tools,
    unread,
    wrong_type,
)

DatasetFormat: TypeAlias = Literal[
    "preference",
    "openai_preference",
    "messages",
    "sharegpt",
    "prompt_completion",
    "input_target",
    "alpaca",
    "text",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """One of the formats."""

    name: DatasetFormat
    required: tuple[str, ...]
    optional: tuple[str, ...] = ()
    #: How turns are spelt, where the row has lists of them.
    dialect: Dialect | None = None
    #: Whether its rows compare two replies.
    compares: bool = False
    read: Callable[[int, Fields], Example]

    def fits(self, keys: set[str]) -> bool:
        """Whether a row with these keys is of this shape."""
        return keys.issuperset(self.required)

    def unused(self, row: Fields) -> Iterator[str]:
        """The keys of `row` that training does not see."""
        yield from row.keys() - {*self.required, *self.optional}
        if self.dialect is None:
            return
        for key in (*self.required, *self.optional):
            yield from unread(row.get(key), key, self.dialect)


def shape_of(row: Fields, expected: Shape | None) -> Shape:
    """The shape of `row`: the `expected` one where it fits, as rows may have keys to spare. Raises Fault."""
    # Tables exported as JSONL have every column in every row, null where it means nothing.
    filled = {key for key, value in row.items() if value is not None}
    for keys in (filled, row.keys()):
        for shape in (expected, *SHAPES) if expected else SHAPES:
            if shape.fits(set(keys)):
                return shape
    if expected is None:
        raise _unknown(row)
    absent = next(key for key in expected.required if key not in row)
    raise missing_field(row, absent, absent)


def _unknown(row: Fields) -> Fault:
    found = f"the fields {listed(row)} fit" if row else "an object without fields fits"
    likest = max(SHAPES, key=lambda shape: _likeness(shape, row))
    if _likeness(likest, row):
        steps = [_step(key, row) for key in likest.required if key not in row]
        advice = f"for the format {quoted(likest.name)}, {' and '.join(steps)}"
    else:
        advice = "use " + " or ".join("+".join(shape.required) for shape in SHAPES)
    return Fault("unknown_format", f"{found} no known format; {advice}.")


def _likeness(shape: Shape, row: Fields) -> float:
    alike = [1.0 if key in row else 0.9 if nearest(key, row) else 0.0 for key in shape.required]
    return sum(alike) / len(alike)


def _step(key: str, row: Fields) -> str:
    close = nearest(key, row)
    return f"rename {quoted(close)} to {quoted(key)}" if close else f"add {quoted(key)}"


def _input_target(line: int, row: Fields) -> Example:
    turns = [text_turn(row, "input", "user"), text_turn(row, "target", "assistant")]
    return conversation(line, row, turns, "target")


def _messages(line: int, row: Fields) -> Example:
    refuse_tools(row, "tools", "tools")
    turns = read_turns(row["messages"], "messages", OPENAI)
    return conversation(line, row, turns, "messages")


def _sharegpt(line: int, row: Fields) -> Example:
    refuse_tools(row, "tools", "tools")
    turns = read_turns(row["conversations"], "conversations", SHAREGPT)
    return conversation(line, row, turns, "conversations")


def _prompt_completion(line: int, row: Fields) -> Example:
    """Loss on the completion only, also where the prompt has replies of its own."""
    refuse_tools(row, "tools", "tools")
    turns = text_or_turns(row, "prompt", "user", trained=False)
    completion = text_or_turns(row, "completion", "assistant", trained=True)
    for turn in completion:
        if turn.message.role != "assistant":
            message = f"{turn.path} is {quoted(turn.message.role)}; move it to the prompt."
            raise Fault("invalid_role", message, field=turn.path)
    return conversation(line, row, turns + completion, "completion")


def _alpaca(line: int, row: Fields) -> Example:
    """The input goes on a new line under the instruction, as LLaMA-Factory has it; it may be empty."""
    ask = text_turn(row, "instruction", "user")
    extra = row.get("input")
    if extra is not None and not isinstance(extra, str):
        raise wrong_type("input", extra, "a string")
    if extra and not extra.isspace():
        content = f"{ask.message.content}\n{read_text(row, 'input', 'input')}"
        ask = Turn("instruction", Message(role="user", content=content))
    return conversation(line, row, [ask, text_turn(row, "output", "assistant")], "output")


def _text(line: int, row: Fields) -> Example:
    return Passage(line=line, text=read_text(row, "text", "text"))


#: In the order they are tried: data sets on the Hub keep the rendered `text` or a bare `prompt` beside the turns, and
#: `messages` with the better reply beside the two that are compared.
SHAPES: Final = (
    Shape(
        name="preference",
        required=("chosen", "rejected"),
        optional=("prompt", "system", "tools"),
        dialect=OPENAI,
        compares=True,
        read=read_preference,
    ),
    Shape(
        name="openai_preference",
        required=("input", "preferred_output", "non_preferred_output"),
        dialect=OPENAI,
        compares=True,
        read=read_openai_preference,
    ),
    Shape(
        name="messages",
        required=("messages",),
        optional=("system", "tools"),
        dialect=OPENAI,
        read=_messages,
    ),
    Shape(
        name="sharegpt",
        required=("conversations",),
        optional=("system", "tools"),
        dialect=SHAREGPT,
        read=_sharegpt,
    ),
    Shape(
        name="prompt_completion",
        required=("prompt", "completion"),
        optional=("system", "tools"),
        dialect=OPENAI,
        read=_prompt_completion,
    ),
    Shape(
        name="input_target", required=("input", "target"), optional=("system",), read=_input_target
    ),
    Shape(
        name="alpaca",
        required=("instruction", "output"),
        optional=("input", "system"),
        read=_alpaca,
    ),
    Shape(name="text", required=("text",), read=_text),
)
