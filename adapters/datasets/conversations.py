"""Turns to a conversation in the order that chat templates need."""

from adapters.datasets.examples import Conversation, Message
from adapters.datasets.problems import Fault
from adapters.datasets.turns import OPENAI, Fields, Turn, read_text, read_turns, wrong_type


def conversation(line: int, row: Fields, turns: list[Turn], field: str) -> Conversation:
    """The turns in the order that chat templates need, led by the row's system text if it has one."""
    system = row.get("system")
    if system is not None and not isinstance(system, str):
        raise wrong_type("system", system, "a string")
    if system and not system.isspace():
        text = read_text(row, "system", "system")
        turns.insert(0, Turn("system", Message(role="system", content=text)))
    _check_order(turns, field)
    return Conversation(line=line, messages=tuple(turn.message for turn in turns))


def _check_order(turns: list[Turn], field: str) -> None:
    replies = [turn for turn in turns if turn.message.role == "assistant"]
    if not replies:
        message = f"{field} has no message of the assistant; add the reply to learn."
        raise Fault("no_assistant_message", message, field=field)
    first = next(turn for turn in turns if turn.message.role != "system")
    if first.message.role != "user":
        message = f"{first.path}: the assistant speaks first; put a message of the user before it."
        raise Fault("invalid_role", message, field=first.path)
    last = turns[-1]
    if last.message.role != "assistant":
        message = (
            f"{last.path}: the {last.message.role} speaks last; end with a reply of the assistant."
        )
        raise Fault("last_message_not_assistant", message, field=last.path)
    if not any(turn.message.trained for turn in replies):
        message = (
            f"{field}: every reply has weight 0; give one of them weight 1, or remove the row."
        )
        raise Fault("no_assistant_message", message, field=field)


def text_turn(row: Fields, key: str, role: str) -> Turn:
    """A field of the row as one turn."""
    text = read_text(row, key, key)
    return Turn(key, Message(role=role, content=text, weight=float(role == "assistant")))


def text_or_turns(row: Fields, key: str, role: str, *, trained: bool) -> list[Turn]:
    """A field that is the text of one turn, or a list of turns."""
    value = row[key]
    if isinstance(value, list):
        return read_turns(value, key, OPENAI, trained=trained)
    if not isinstance(value, str):
        raise wrong_type(key, value, "a string or an array of messages")
    return [text_turn(row, key, role)]
