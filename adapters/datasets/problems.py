"""What can be wrong with a training file, and the words we say it in."""

from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from typing import Final, Literal, TypeAlias

from adapters.errors import Details, InvalidDataset, InvalidHeldOut

ProblemCode: TypeAlias = Literal[
    "different_prompts",
    "empty",
    "empty_file",
    "file_too_large",
    "invalid_gzip",
    "invalid_json",
    "invalid_role",
    "invalid_utf8",
    "invalid_weight",
    "last_message_not_assistant",
    "missing_field",
    "mixed_format",
    "no_assistant_message",
    "no_preference",
    "not_an_object",
    "row_too_large",
    "tools_not_supported",
    "unknown_format",
    "unsupported_content",
    "wrong_type",
]

#: Names and values are cut here before they are quoted or compared: difflib's cost grows with the square of the length.
_LONGEST_QUOTE = 40
#: At 0.6, difflib's default, 'target' is a misspelt 'text'.
_ALIKE = 0.7
#: A row may have thousands of keys; a sentence should not.
_MOST_NAMES = 8
#: Booleans first: Python counts them among the integers.
_KINDS: Final[tuple[tuple[type | tuple[type, ...], str], ...]] = (
    (type(None), "null"),
    (bool, "a boolean"),
    (str, "a string"),
    ((int, float), "a number"),
    (list, "an array"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One bad row. `message` stands alone: it says where, what was found and how to mend it."""

    #: Counts from 1: lines of JSONL, or rows of a JSON array. 0 speaks of the file as a whole.
    line: int
    #: A path into the row such as `messages[2].role`; None where the row as a whole is meant.
    field: str | None
    code: ProblemCode
    message: str


def invalid_dataset(
    message: str, problems: Iterable[Problem], *, held_out: bool = False
) -> InvalidDataset:
    """The error that a client sees; `held_out` says of which file."""
    details: Details = [
        {"line": one.line, "field": one.field, "code": one.code, "message": one.message}
        for one in problems
    ]
    if held_out:
        return InvalidHeldOut(message, param="validation_file", details=details)
    return InvalidDataset(message, param="training_file", details=details)


class Fault(Exception):
    """A row cannot be used. Whoever knows the line turns it into a Problem; it never leaves this package."""

    def __init__(self, code: ProblemCode, message: str, *, field: str | None = None) -> None:
        super().__init__(message)
        self.code: ProblemCode = code
        self.message = message
        self.field = field


class FileFault(Fault):
    """The file as a whole cannot be read on."""


def quoted(value: str) -> str:
    """`value` in quotes, short and printable: it may hold a megabyte, NULs or half a surrogate pair."""
    short = value if len(value) <= _LONGEST_QUOTE else value[:_LONGEST_QUOTE] + "…"
    return repr(short)


def printable(name: str) -> str:
    """`name` without quotes, safe to store and to send."""
    short = name if len(name) <= _LONGEST_QUOTE else name[:_LONGEST_QUOTE] + "…"
    return short if short.isprintable() else repr(short)[1:-1]


def listed(names: Iterable[str]) -> str:
    """`'a', 'b' and 'c'`, at most a sentence's worth."""
    every = [quoted(name) for name in names]
    shown = every[:_MOST_NAMES]
    if len(every) > len(shown):
        shown.append(f"{len(every) - len(shown)} more")
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"


def kind(value: object) -> str:
    """What JSON calls the type of `value`, with its article."""
    return next((name for types, name in _KINDS if isinstance(value, types)), "an object")


def nearest(name: str, candidates: Iterable[str]) -> str | None:
    """The candidate that `name` looks like a misspelling of, if any."""
    shortlist = [one for one, _ in zip(candidates, range(_MOST_NAMES), strict=False)]
    close = _closest(name[:_LONGEST_QUOTE], tuple(one[:_LONGEST_QUOTE] for one in shortlist))
    return None if close is None else shortlist[close]


@lru_cache(maxsize=1024)
def _closest(name: str, candidates: tuple[str, ...]) -> int | None:
    """Cached because a misspelt key is misspelt in each of a million rows, and difflib takes some 50 us."""
    lowered = [one.lower() for one in candidates]
    close = get_close_matches(name.lower(), lowered, n=1, cutoff=_ALIKE)
    return lowered.index(close[0]) if close else None
