"""Rows that compare two replies to one prompt, in the ways that TRL and OpenAI spell them.

The reply counts in full on either side, and nothing of the prompt does: a preference is about what differs.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from adapters.datasets.conversations import conversation, text_or_turns
from adapters.datasets.examples import Comparison
from adapters.datasets.problems import Fault, quoted
from adapters.datasets.turns import (
    OPENAI,
    Fields,
    Turn,
    missing_field,
    read_turns,
    refuse_tools,
    wrong_type,
)


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two, and the field that it stands in."""

    field: str
    turns: list[Turn]


def read_preference(line: int, row: Fields) -> Comparison:
    """`prompt`, `chosen` and `rejected`; or without `prompt`, two whole conversations that begin alike."""
    refuse_tools(row, "tools", "tools")
    chosen, rejected = _side(row, "chosen"), _side(row, "rejected")
    if row.get("prompt") is None:
        if any(isinstance(row[side.field], str) for side in (chosen, rejected)):
            there = {name: value for name, value in row.items() if value is not None}
            raise missing_field(there, "prompt", "prompt")
        count = _shared(chosen, rejected)
        prompt = chosen.turns[:count]
        chosen, rejected = _rest(chosen, count), _rest(rejected, count)
    else:
        prompt = text_or_turns(row, "prompt", "user", trained=False)
        chosen, rejected = _without(prompt, chosen), _without(prompt, rejected)
    return _comparison(line, row, prompt, (chosen, rejected))


def read_openai_preference(line: int, row: Fields) -> Comparison:
    """`input`, `preferred_output` and `non_preferred_output`."""
    asked = row["input"]
    if not isinstance(asked, dict):
        raise wrong_type("input", asked, 'an object such as {"messages": [...]}')
    refuse_tools(asked, "tools", "input.tools")
    if "messages" not in asked:
        raise missing_field(asked, "messages", "input.messages")
    prompt = read_turns(asked["messages"], "input.messages", OPENAI, trained=False)
    sides = (
        Side("preferred_output", read_turns(row["preferred_output"], "preferred_output", OPENAI)),
        Side(
            "non_preferred_output",
            read_turns(row["non_preferred_output"], "non_preferred_output", OPENAI),
        ),
    )
    # A `system` beside the three is no part of this format.
    return _comparison(line, {}, prompt, sides)


def _side(row: Fields, field: str) -> Side:
    return Side(field, text_or_turns(row, field, "assistant", trained=True))


def _shared(chosen: Side, rejected: Side) -> int:
    """How many messages both begin with. Some follow on either side."""
    count = 0
    for one, other in zip(chosen.turns, rejected.turns, strict=False):
        if not _alike([one], [other]):
            break
        count += 1
    if count == len(chosen.turns) == len(rejected.turns):
        raise _no_preference(chosen, rejected)
    for side, other_side in ((chosen, rejected), (rejected, chosen)):
        if count == len(side.turns):
            message = f"{side.field} ends where {other_side.field} goes on; end both with a reply to the same messages."
            raise Fault("different_prompts", message, field=side.field)
    return count


def _rest(side: Side, start: int) -> Side:
    return Side(side.field, side.turns[start:])


def _without(prompt: list[Turn], side: Side) -> Side:
    """Data sets on the Hub repeat the prompt before the reply."""
    head = side.turns[: len(prompt)]
    repeated = len(side.turns) > len(prompt) and _alike(head, prompt)
    return _rest(side, len(prompt)) if repeated else side


def _comparison(
    line: int, row: Fields, prompt: Sequence[Turn], sides: tuple[Side, Side]
) -> Comparison:
    context = [Turn(turn.path, replace(turn.message, weight=0.0)) for turn in prompt]
    for side in sides:
        _check_reply(side)
    chosen, rejected = (conversation(line, row, [*context, *one.turns], one.field) for one in sides)
    if _alike(sides[0].turns, sides[1].turns):
        raise _no_preference(*sides)
    return Comparison(line=line, chosen=chosen, rejected=rejected)


def _check_reply(side: Side) -> None:
    for turn in side.turns:
        if turn.message.role != "assistant":
            message = (
                f"{turn.path} is {quoted(turn.message.role)}; both sides must be the same up to the reply, "
                f"and {quoted(side.field)} go on with the assistant only."
            )
            raise Fault("different_prompts", message, field=turn.path)
        if turn.message.weight != 1:
            path = f"{turn.path.rpartition('.')[0]}.weight"
            message = f"{path} is {turn.message.weight:g}; the replies of a comparison count in full, remove it."
            raise Fault("invalid_weight", message, field=path)


def _alike(some: Sequence[Turn], others: Sequence[Turn]) -> bool:
    """Whether they say the same, up to the white space around it, which many chat templates take away."""
    return [_said(turn) for turn in some] == [_said(turn) for turn in others]


def _said(turn: Turn) -> tuple[str, str]:
    return turn.message.role, turn.message.content.strip()


def _no_preference(chosen: Side, rejected: Side) -> Fault:
    message = f"{rejected.field} says the same as {chosen.field}; give it another reply, or remove the row."
    return Fault("no_preference", message, field=rejected.field)
