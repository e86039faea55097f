"""A JSON array read row by row, since `json.load` would hold all of it, several times over."""

import codecs
import io
import json
import re
from collections.abc import Iterator

from adapters.datasets.problems import Fault, FileFault, printable
from adapters.datasets.rows import (
    BLANK,
    DECODER,
    MAX_ROW_BYTES,
    Row,
    no_rows,
    not_json,
    not_utf8,
    too_large,
)

_CHUNK_BYTES = 4 * MAX_ROW_BYTES
#: Parser errors this close to the window's end may only mean that the rest is not there yet (`tru`, `\\ud83`).
_LONGEST_TOKEN = 16
_BLANKS = re.compile(f"[{BLANK}]*")
_ADVICE = "mend the array here, the rows after this one were not checked."


def read_array(stream: io.BufferedReader) -> Iterator[Row]:
    """The rows of the array that `stream` starts with, counted from 1. Ends at the first fault of the array itself."""
    window = _Window(stream)
    number = 0
    try:
        following = window.opened()
        while following:
            number += 1
            yield _next_row(window, number)
            following = window.separated()
        number += 1
        window.ended()
        if number == 1:
            raise no_rows()
    except FileFault:
        raise
    except Fault as fault:
        yield Row(line=max(number, 1), unit="Row", fault=fault)


def _next_row(window: "_Window", number: int) -> Row:
    """A row whose end is known can be bad by itself; a Fault raised from here ends the array."""
    value, source = window.value()
    fault = None
    try:
        # A character is a byte at least, so that most rows are not worth counting; encoding also finds bad bytes.
        if len(source.encode()) > MAX_ROW_BYTES:
            fault = too_large()
    except UnicodeEncodeError:
        fault = not_utf8("a part of this row")
    return Row(line=number, unit="Row", value=value, fault=fault)


class _Window:
    """A stretch of text that always holds the whole of the row at `_at`, unless that row is too large.

    Bytes that are not UTF-8 become lone surrogates here, so that the row they are in can be told.
    """

    def __init__(self, stream: io.BufferedReader) -> None:
        self._stream = stream
        self._decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
        self._text = ""
        self._at = 0
        self._complete = False

    def opened(self) -> bool:
        """Step over the opening bracket; whether a row follows."""
        self._peek()
        self._at += 1
        if self._peek() == "]":
            self._at += 1
            return False
        return True

    def separated(self) -> bool:
        """Step over what stands between two rows; whether another row follows."""
        found = self._peek()
        if found not in {",", "]"}:
            what = f"“{printable(found)}”" if found else "the end of the file"
            raise Fault("invalid_json", f"',' or ']' should follow this row, not {what}; {_ADVICE}")
        self._at += 1
        return found == ","

    def ended(self) -> None:
        """Make sure that nothing comes after the closing bracket."""
        if found := self._peek():
            what = f"“{printable(found)}” follows the closing ']' of the array"
            raise Fault("invalid_json", f"{what}; put every row inside one array.")

    def value(self) -> tuple[object, str]:
        """The JSON value here and its source; steps over it."""
        self._peek()
        try:
            value, end = DECODER.raw_decode(self._text, self._at)
        except (ValueError, RecursionError) as error:
            if self._cut_short(error):
                raise too_large() from error
            raise not_json(error, advice=_ADVICE) from error
        source = self._text[self._at : end]
        self._at = end
        return value, source

    def _cut_short(self, error: ValueError | RecursionError) -> bool:
        if self._complete or not isinstance(error, json.JSONDecodeError):
            return False
        at_the_end = error.pos >= len(self._text) - _LONGEST_TOKEN
        return at_the_end or error.msg.startswith("Unterminated string")

    def _peek(self) -> str:
        """The next character that is not blank, or nothing at the end of the file."""
        while True:
            self._fill()
            if blanks := _BLANKS.match(self._text, self._at):
                self._at = blanks.end()
            if self._at < len(self._text):
                self._fill()
                return self._text[self._at]
            if self._complete:
                return ""

    def _fill(self) -> None:
        while not self._complete and len(self._text) - self._at <= MAX_ROW_BYTES + _LONGEST_TOKEN:
            chunk = self._stream.read(_CHUNK_BYTES)
            self._complete = not chunk
            text = self._decoder.decode(chunk, self._complete)
            self._text = self._text[self._at :] + text
            self._at = 0
