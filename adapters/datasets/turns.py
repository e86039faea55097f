"""A list of chat turns, as OpenAI or ShareGPT spell them, to Messages."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from adapters.datasets.examples import Message
from adapters.datasets.problems import Fault, kind, listed, nearest, printable, quoted

#: A row, or one object within it.
Fields = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Turn:
    """A message, and the path by which to call it when it is out of place."""

    path: str
    message: Message


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """How a turn is spelt."""

    role: str
    content: str
    #: What the role may be, and what the chat templates call it.
    roles: Mapping[str, str]
    tool_roles: frozenset[str]

    @property
    def known(self) -> frozenset[str]:
        """Every key of a turn that means something to us."""
        return frozenset({self.role, self.content, "weight", *_TOOL_KEYS})


_TOOL_KEYS: Final = ("tool_calls", "function_call")
_NO_TOOLS: Final = "tools cannot be trained on yet"

OPENAI: Final = Dialect(
    role="role",
    content="content",
    roles={
        "system": "system",
        "developer": "system",
        "user": "user",
        "assistant": "assistant",
    },
    tool_roles=frozenset({"tool", "function"}),
)
SHAREGPT: Final = Dialect(
    role="from",
    content="value",
    roles={
        "system": "system",
        "human": "user",
        "user": "user",
        "gpt": "assistant",
        "chatgpt": "assistant",
        "assistant": "assistant",
    },
    tool_roles=frozenset({"tool", "function", "function_call", "observation"}),
)


def read_turns(value: object, path: str, dialect: Dialect, *, trained: bool = True) -> list[Turn]:
    """Every turn in order. `trained` is what an assistant's turn is unless its weight says otherwise."""
    if not isinstance(value, list):
        raise wrong_type(path, value, "an array of messages")
    if not value:
        raise Fault("empty", f"{path} is an empty array; put the messages in it.", field=path)
    return [
        _read_turn(turn, f"{path}[{index}]", dialect, trained=trained)
        for index, turn in enumerate(value)
    ]


def unread(value: object, path: str, dialect: Dialect) -> Iterator[str]:
    """The keys of turns, or of an object with `messages`, that nothing reads."""
    if isinstance(value, list):
        for turn in value:
            yield from (f"{path}[].{name}" for name in turn.keys() - dialect.known)
    elif isinstance(value, dict):
        yield from (f"{path}.{name}" for name in value.keys() - {"messages", "tools"})
        yield from unread(value.get("messages"), f"{path}.messages", dialect)


def read_text(fields: Fields, key: str, path: str) -> str:
    """A string with something in it, kept as it is."""
    if key not in fields:
        raise missing_field(fields, key, path)
    value = fields[key]
    if not isinstance(value, str):
        raise wrong_type(path, value, "a string")
    return _checked_text(value, path)


def refuse_tools(fields: Fields, key: str, path: str) -> None:
    """Tools change what the chat template renders: training without them would teach something else."""
    if fields.get(key):
        raise Fault("tools_not_supported", f"{path}: {_NO_TOOLS}; remove the row.", field=path)


def wrong_type(path: str, value: object, wanted: str) -> Fault:
    """The fault for a value of another type."""
    return Fault("wrong_type", f"{path} is {kind(value)}; make it {wanted}.", field=path)


def missing_field(fields: Fields, key: str, path: str) -> Fault:
    """The fault for an absent key, naming the one that was probably meant."""
    advice = f"found {listed(fields)}, add {quoted(key)}" if fields else f"add {quoted(key)}"
    if close := nearest(key, fields):
        advice = f"rename {quoted(close)} to {quoted(key)}"
    return Fault("missing_field", f"{path} is missing; {advice}.", field=path)


def _read_turn(turn: object, path: str, dialect: Dialect, *, trained: bool) -> Turn:
    if not isinstance(turn, dict):
        raise wrong_type(path, turn, "an object")
    role_path = f"{path}.{dialect.role}"
    role = _read_role(turn, role_path, dialect)
    # Before the content, which is null in a turn that only calls a tool.
    for key in _TOOL_KEYS:
        refuse_tools(turn, key, f"{path}.{key}")
    content = _read_content(turn, dialect.content, f"{path}.{dialect.content}")
    weight = _read_weight(turn, role, f"{path}.weight", default=float(trained))
    return Turn(role_path, Message(role=role, content=content, weight=weight))


def _read_role(turn: Fields, path: str, dialect: Dialect) -> str:
    name = read_text(turn, dialect.role, path)
    if name in dialect.roles:
        return dialect.roles[name]
    if name in dialect.tool_roles:
        message = f"{path} is {quoted(name)}, and {_NO_TOOLS}; remove the row."
        raise Fault("tools_not_supported", message, field=path)
    close = nearest(name, dialect.roles)
    advice = f"did you mean {quoted(close)}?" if close else f"use one of {listed(dialect.roles)}."
    raise Fault("invalid_role", f"{path} is {quoted(name)}; {advice}", field=path)


def _read_content(turn: Fields, key: str, path: str) -> str:
    parts = turn.get(key)
    if not isinstance(parts, list):
        return read_text(turn, key, path)
    # vLLM puts a newline between text parts when it serves; what is trained must look the same.
    texts = [_read_part(part, f"{path}[{index}]") for index, part in enumerate(parts)]
    return _checked_text("\n".join(texts), path)


def _read_part(part: object, path: str) -> str:
    if not isinstance(part, dict):
        raise wrong_type(path, part, 'an object such as {"type": "text", "text": "..."}')
    kind_of_part = read_text(part, "type", f"{path}.type")
    if kind_of_part != "text":
        message = f"{path}.type is {quoted(kind_of_part)}; only 'text' can be trained on, remove the part."
        raise Fault("unsupported_content", message, field=f"{path}.type")
    return read_text(part, "text", f"{path}.text")


def _checked_text(text: str, path: str) -> str:
    if not text or text.isspace():
        raise Fault("empty", f"{path} is empty; fill it in or remove the row.", field=path)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        found = quoted(text[error.start])
        message = f"{path} holds {found}, half of a character; write both halves or remove it."
        raise Fault("invalid_utf8", message, field=path) from error
    return text


def _read_weight(turn: Fields, role: str, path: str, *, default: float) -> float:
    weight = turn.get("weight")
    if weight is None:
        return default if role == "assistant" else 0.0
    if role != "assistant":
        message = (
            f"{path} is on a message of the {role}; only an assistant's may have one, remove it."
        )
        raise Fault("invalid_weight", message, field=path)
    if isinstance(weight, bool) or not isinstance(weight, int | float):
        raise _invalid_weight(path, kind(weight))
    if not 0 <= weight <= 1:
        raise _invalid_weight(path, str(weight))
    return float(weight)


def _invalid_weight(path: str, found: str) -> Fault:
    message = f"{path} is {printable(found)}; make it a number from 0 (not trained) to 1 (trained in full)."
    return Fault("invalid_weight", message, field=path)
