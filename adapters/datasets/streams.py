"""Files to rows: JSONL or one JSON array, plain or gzip, with or without a byte-order mark; and rows to JSONL.

A file is read as a stream. At most one line is held, or for an array a window of about five times the greatest row.
"""

import codecs
import gzip
import io
import json
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from adapters.datasets.json_array import read_array
from adapters.datasets.problems import Fault, FileFault, invalid_dataset, kind
from adapters.datasets.rows import (
    BLANK,
    MAX_ROW_BYTES,
    Row,
    decode_row,
    no_rows,
    not_json,
    too_large,
)

#: Eight times the largest upload. Gzip packs a thousand to one: half a gigabyte of zeros would be read for an hour.
MAX_UNPACKED_BYTES = 4 * 2**30
_GZIP_MAGIC = b"\x1f\x8b"
_BLANK_BYTES = BLANK.encode()
_BUFFER_BYTES = 2**16
_LINE_END = len(b"\r\n")


def read_rows(path: Path) -> Iterator[Row]:
    """Every row that is not blank. A fault of the file as a whole comes as a last row, of line 0."""
    try:
        with _opened(path) as stream:
            yield from _rows_of(stream)
    except FileFault as fault:
        yield Row(line=0, unit="Line", fault=fault)


def write_rows(rows: Iterable[object], path: Path) -> None:
    """Write inline JSON rows as JSONL. What a row means is for `check_dataset` to judge; raises on what is no object.

    It has to be here: an array as first row would make the file read as one array.
    """
    with path.open("wb") as file:
        for line, row in enumerate(rows, start=1):
            try:
                file.write(_dumped(row) + b"\n")
            except Fault as fault:
                problem = Row(line=line, unit="Line").problem(fault)
                raise invalid_dataset(problem.message, [problem]) from fault


def not_an_object(value: object) -> Fault:
    """The fault for a row that is, say, a string."""
    found = kind(value)
    return Fault("not_an_object", f"this row is {found}; make it an object with named fields.")


def _dumped(row: object) -> bytes:
    if not isinstance(row, dict):
        raise not_an_object(row)
    try:
        return json.dumps(row, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:
        # Half a surrogate pair. Escaped it can be written, and the check will name its row.
        return json.dumps(row, separators=(",", ":")).encode()
    except RecursionError as error:
        raise not_json(error, advice="make it flatter.") from error


@contextmanager
def _opened(path: Path) -> Iterator[io.BufferedReader]:
    with path.open("rb") as file:
        if file.peek(2)[:2] != _GZIP_MAGIC:
            yield file
            return
        with gzip.GzipFile(fileobj=file) as packed:
            unpacked: Any = _Unpacked(packed)
            with io.BufferedReader(unpacked, _BUFFER_BYTES) as stream:
                yield stream


class _Unpacked(io.RawIOBase):
    """A gzip stream with an end, whose errors are ours."""

    def __init__(self, inner: gzip.GzipFile) -> None:
        super().__init__()
        self._inner = inner
        self._left = MAX_UNPACKED_BYTES

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        try:
            chunk = self._inner.read(len(buffer))
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            reason = f"The gzip data is damaged ({error}); compress and upload the file again."
            raise FileFault("invalid_gzip", reason) from error
        self._left -= len(chunk)
        if self._left < 0:
            limit = f"{MAX_UNPACKED_BYTES:,} bytes"
            reason = f"The file unpacks to more than {limit}; split it into several files."
            raise FileFault("file_too_large", reason)
        buffer[: len(chunk)] = chunk
        return len(chunk)


def _rows_of(stream: io.BufferedReader) -> Iterator[Row]:
    head = stream.peek(3)
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise FileFault("invalid_utf8", "The file is UTF-16; save it with the encoding UTF-8.")
    if head.startswith(codecs.BOM_UTF8):
        stream.read(len(codecs.BOM_UTF8))
    lines_before = _skip_blank(stream)
    if not stream.peek(1):
        raise no_rows()
    if stream.peek(1).lstrip(_BLANK_BYTES).startswith(b"["):
        return read_array(stream)
    return _read_lines(stream, lines_before + 1)


def _skip_blank(stream: io.BufferedReader) -> int:
    """Step over whole buffers of blanks, so that the next peek shows how the file begins; counts their lines."""
    lines = 0
    while (head := stream.peek(1)) and not head.strip(_BLANK_BYTES):
        lines += stream.read(len(head)).count(b"\n")
    return lines


def _read_lines(stream: io.BufferedReader, number: int) -> Iterator[Row]:
    limit = MAX_ROW_BYTES + _LINE_END
    while line := stream.readline(limit):
        whole = line.endswith(b"\n") or len(line) < limit
        if not whole:
            _skip_line(stream)
        content = line.strip(_BLANK_BYTES)
        if content or not whole:
            yield _row(number, content, fits=whole and len(content) <= MAX_ROW_BYTES)
        number += 1


def _skip_line(stream: io.BufferedReader) -> None:
    while (piece := stream.readline(_BUFFER_BYTES)) and not piece.endswith(b"\n"):
        pass


def _row(number: int, content: bytes, *, fits: bool) -> Row:
    try:
        if not fits:
            raise too_large()
        return Row(line=number, unit="Line", value=decode_row(content))
    except Fault as fault:
        return Row(line=number, unit="Line", fault=fault)
