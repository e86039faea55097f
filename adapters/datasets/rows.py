"""One row as it came out of the file: JSON, and strict where Python's parser is lenient."""

import json
from collections import Counter
from dataclasses import dataclass
from typing import Literal, NoReturn

from adapters.datasets.problems import Fault, FileFault, Problem, printable

#: Far beyond any context window, and small enough to hold a few of.
MAX_ROW_BYTES = 1_000_000
BLANK = " \t\r\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A parsed row, or the reason why it could not be parsed."""

    #: As in Problem.
    line: int
    unit: Literal["Line", "Row"]
    value: object = None
    fault: Fault | None = None

    def problem(self, fault: Fault) -> Problem:
        """`fault` with its place."""
        where = f"{self.unit} {self.line}: " if self.line else ""
        message = f"{where}{fault.message}"
        return Problem(line=self.line, field=fault.field, code=fault.code, message=message)


def decode_row(line: bytes) -> object:
    """The JSON value on one line; raises Fault."""
    try:
        return DECODER.decode(line.decode())
    except UnicodeDecodeError as error:
        raise not_utf8(f"byte {error.start + 1} of the row") from error
    except (ValueError, RecursionError) as error:
        raise not_json(error) from error


def not_utf8(where: str) -> Fault:
    """The fault for bytes that are no text."""
    return Fault("invalid_utf8", f"{where} is not UTF-8; save the file with the encoding UTF-8.")


def not_json(error: ValueError | RecursionError, *, advice: str | None = None) -> Fault:
    """The fault for text that is no JSON, or that Python's parser cannot take."""
    default = "mend this row."
    match error:
        case json.JSONDecodeError():
            near = error.doc[error.pos : error.pos + 20].strip()
            reason = f"{error.msg} at {f'“{printable(near)}”' if near else 'its end'}"
            default = "put one complete JSON object on each line."
        case _Refused():
            reason = str(error)
        case RecursionError():
            reason = "it is nested too deeply"
        case _:
            reason = "a number has thousands of digits"
    return Fault("invalid_json", f"this is not valid JSON: {reason}; {advice or default}")


def too_large() -> Fault:
    """The fault for a row beyond MAX_ROW_BYTES."""
    limit = f"{MAX_ROW_BYTES:,} bytes"
    return Fault("row_too_large", f"this row is longer than {limit}; split it into several rows.")


def no_rows() -> FileFault:
    """The fault of a file without a single row."""
    return FileFault("empty_file", "The file holds no rows; put one JSON object on each line.")


class _Refused(ValueError):
    """What Python's parser would let pass."""


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    # Python keeps the last of two equal keys and says nothing. The hook costs a fifth of the parsing time.
    found = dict(pairs)
    if len(found) != len(pairs):
        twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise _Refused(f"the key '{printable(twice)}' appears twice in one object")
    return found


def _constant(name: str) -> NoReturn:
    raise _Refused(f"{name} is not a JSON number")


DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_constant)
