"""How large a grammar becomes, before an engine compiles it beside the answers to others.

The size of the text says little: `(a{1,1000}){1,1000}` has twenty characters and a million copies of `a`. Counted here
are copies, without compiling anything and without Python's `re` on a stranger's expression.
"""

import json
import re
from collections.abc import Iterator
from typing import Any

from adapters.errors import InvalidValue

#: Keywords of JSON Schema that say how often, and what compiles to so many copies.
_COUNTS = frozenset(
    {"maxItems", "maxLength", "maxProperties", "minItems", "minLength", "minProperties"}
)
#: Fields whose text is an expression or a grammar; both count with braces.
_TEXTS = frozenset({"grammar", "pattern", "regex"})
#: Fields whose text may be JSON, with a schema in it.
_QUOTED = frozenset({"json", "structural_tag"})
#: A repetition, a class, something escaped, or a single character.
_PIECES = re.compile(r"\{[0-9]{0,20}(?:,[0-9]{0,20})?\}|\[(?:\\.|[^\]\\])*\]?|\\.?|.", re.DOTALL)
_SIGNS = frozenset("*+?|")


def check_grammar(name: str, value: Any, most: int) -> None:
    """Raise InvalidValue where something of a schema, an expression or a grammar would be copied too often."""
    for keyword, copies in _copies(value):
        if copies > most:
            raise InvalidValue(
                f"'{keyword}' in '{name}' would make {copies:,} copies of a part; at most {most:,} are taken here.",
                param=name,
            )


def with_texts_read(value: Any) -> Any:
    """The value of a field with the schemas in it that are JSON in JSON's strings."""
    if not isinstance(value, dict):
        return value
    return {
        name: _read(inside) if name in _QUOTED and isinstance(inside, str) else inside
        for name, inside in value.items()
    }


def copies_of(expression: str) -> int:
    """How many single characters or classes it has once every `{m,n}` is written out, one in the other multiplied."""
    totals, last = [0], 0
    for piece in _PIECES.findall(expression):
        if piece == "(":
            totals.append(0)
        elif piece == ")" and len(totals) > 1:
            last = totals.pop()
            totals[-1] += last
        elif piece[0] == "{" and piece[-1] == "}":
            times = max((int(bound) for bound in piece[1:-1].split(",") if bound), default=1)
            totals[-1] += last * (times - 1)
            last *= times
        elif piece not in _SIGNS:
            last = 1
            totals[-1] += 1
    return sum(totals)


def _copies(value: Any) -> Iterator[tuple[str, float]]:
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, list):
            waiting += one
        elif isinstance(one, dict):
            waiting += one.values()
            for keyword, inside in one.items():
                yield from _said(keyword, inside)


def _said(keyword: str, inside: Any) -> Iterator[tuple[str, float]]:
    if keyword in _TEXTS and isinstance(inside, str):
        yield keyword, copies_of(inside)
    elif keyword in _COUNTS and isinstance(inside, int | float):
        yield keyword, inside
    elif keyword == "patternProperties" and isinstance(inside, dict):
        yield from ((keyword, copies_of(pattern)) for pattern in inside)


def _read(text: str) -> Any:
    """The text itself where it is no JSON: the engine says so."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text
