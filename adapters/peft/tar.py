"""The members of a tar, one after the other, in memory that does not depend on what the archive says.

Python's tarfile reads an extended header of any announced size at once, follows links and knows sparse files; an
archive from a stranger needs none of that. Read are POSIX ustar, pax and GNU's long names; gzip around them.
"""

import gzip
import io
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from adapters.peft.flaws import Flaw, refusal

_BLOCK = 512
_CHUNK = 1 << 16
#: Names and pax headers; larger ones are nobody's who means well.
_LONGEST_HEADER = 1 << 16
_GZIP = b"\x1f\x8b"
_OTHERS = {
    b"PK\x03\x04": "a zip file",
    b"BZh": "compressed with bzip2",
    b"\xfd7zXZ": "compressed with xz",
    b"\x28\xb5\x2f\xfd": "compressed with zstd",
}
_FILES, _DIRECTORY, _LINKS = {b"0", b"\0", b"7"}, b"5", {b"1", b"2"}
_PAX, _PAX_GLOBAL, _LONG_NAME, _LONG_LINK = b"x", b"g", b"L", b"K"


@dataclass(frozen=True, slots=True)
class Limits:
    """How much an archive may come to, unpacked."""

    bytes: int
    members: int = 1000


@dataclass(frozen=True, slots=True)
class Member:
    """A file in the archive: the components of its path, and its size in bytes."""

    path: tuple[str, ...]
    size: int


class TarReader:
    """Goes through an archive once.

    Every method raises InvalidAdapter: for what is no tar, is damaged, exceeds the limits, or is not meant to be
    unpacked by anybody (links, devices, paths that lead out of the folder).
    """

    def __init__(self, file: BinaryIO, limits: Limits) -> None:
        self._stream = _Bounded(file, limits.bytes)
        self._limits = limits
        self._left = 0
        self._padding = 0

    def files(self) -> Iterator[Member]:
        """The files; what `copy` leaves of one is skipped."""
        seen: set[tuple[str, ...]] = set()
        for count, (header, extended) in enumerate(self._headers(), start=1):
            if count > self._limits.members:
                raise refusal(
                    Flaw.TOO_MANY_MEMBERS,
                    f"The archive has more than {self._limits.members} members. Pack adapter_config.json and "
                    "adapter_model.safetensors only.",
                )
            name = extended.get("path") or _name(header)
            path, kind = _safe(name), header[156:157]
            _expect_plain(kind, name)
            if kind == _DIRECTORY or (kind == b"\0" and name.endswith("/")):
                continue
            if path in seen or not path:
                raise refusal(Flaw.DUPLICATE_MEMBER, f"The archive has {name!r:.200} twice.")
            seen.add(path)
            yield Member(path, self._left)

    def copy(self, target: BinaryIO) -> None:
        """Write the file that `files` has just named."""
        while self._left:
            chunk = self._take(min(self._left, _CHUNK))
            self._left -= len(chunk)
            target.write(chunk)

    def _headers(self) -> Iterator[tuple[bytes, dict[str, str]]]:
        """Each member's header block, with what extended headers before it say."""
        extended: dict[str, str] = {}
        first = True
        while True:
            self._skip()
            header = self._take(_BLOCK)
            if not any(header):
                self._stream.drain()
                return
            _verify(header, first=first)
            first = False
            self._open(_number(header[124:136]))
            match header[156:157]:
                case kind if kind == _PAX:
                    extended |= _pax(self._small())
                    self._small_size(extended)
                case kind if kind in {_PAX_GLOBAL, _LONG_LINK}:
                    self._small()
                case kind if kind == _LONG_NAME:
                    extended["path"] = _text(self._small().rstrip(b"\0"))
                case _:
                    if "size" in extended:
                        self._open(int(extended["size"]))
                    yield header, extended
                    extended = {}

    def _open(self, size: int) -> None:
        self._left, self._padding = size, -size % _BLOCK

    def _small(self) -> bytes:
        """The data of an extended header."""
        if self._left > _LONGEST_HEADER:
            raise _damaged("an extended header is too long")
        data = self._take(self._left)
        self._left = 0
        return data

    def _small_size(self, extended: dict[str, str]) -> None:
        if not re.fullmatch("[0-9]{1,18}", extended.get("size", "0")):
            raise _damaged("a size is no number")

    def _skip(self) -> None:
        left, self._left, self._padding = self._left + self._padding, 0, 0
        while left:
            left -= len(self._take(min(left, _CHUNK)))

    def _take(self, size: int) -> bytes:
        data = self._stream.read(size)
        if len(data) < size:
            raise _damaged("it ends too early")
        return data


class _Bounded:
    """The bytes of the archive without gzip, up to a limit."""

    def __init__(self, file: BinaryIO, limit: int) -> None:
        start = file.read(8)
        file.seek(0)
        for magic, what in _OTHERS.items():
            if start.startswith(magic):
                raise refusal(
                    Flaw.NOT_AN_ARCHIVE,
                    f"The archive is {what}. Send a tar, plain or compressed with gzip.",
                )
        self._stream: BinaryIO | gzip.GzipFile = (
            gzip.GzipFile(fileobj=file) if start.startswith(_GZIP) else file
        )
        self._limit = limit
        self._seen = 0

    def read(self, size: int) -> bytes:
        """So many bytes, fewer where the archive ends. Raises InvalidAdapter."""
        found = io.BytesIO()
        while found.tell() < size:
            chunk = self._read(size - found.tell())
            if not chunk:
                break
            found.write(chunk)
        self._seen += found.tell()
        if self._seen > self._limit:
            raise refusal(
                Flaw.TOO_LARGE,
                f"The archive comes to more than {self._limit:,} bytes unpacked, the most that this server takes.",
            )
        return found.getvalue()

    def drain(self) -> None:
        """Read what is left, so that gzip's checksum is looked at."""
        while self.read(_CHUNK):
            pass

    def _read(self, size: int) -> bytes:
        try:
            return self._stream.read(size)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise _damaged(f"gzip says: {error}") from error


def _verify(header: bytes, *, first: bool) -> None:
    """Whether the block is a header at all: the sum over its bytes, its own field counted as spaces."""
    total = sum(header[:148]) + sum(header[156:]) + 8 * ord(" ")
    told = re.fullmatch(rb"[ \0]*([0-7]{1,7})[ \0]*", header[148:156])
    if told is not None and int(told[1], 8) == total:
        return
    if first:
        raise refusal(
            Flaw.NOT_AN_ARCHIVE,
            "The archive is not a tar. Pack the adapter's folder: tar -czf adapter.tar.gz my-adapter",
        )
    raise _damaged("a header has a wrong checksum")


def _number(field: bytes) -> int:
    if field[0] == 0x80:  # noqa: PLR2004  GNU's mark of a binary number
        return int.from_bytes(field[1:], "big")
    told = re.fullmatch(rb"[ \0]*([0-7]*)[ \0]*", field)
    if told is None:
        raise _damaged("a size is no number")
    return int(told[1] or b"0", 8)


def _name(header: bytes) -> str:
    name = header[:100].partition(b"\0")[0]
    prefix = header[345:500].partition(b"\0")[0]
    # GNU's own format has other things where POSIX has the prefix.
    return _text(prefix + b"/" + name if prefix and header[257:263] == b"ustar\0" else name)


def _text(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise refusal(Flaw.UNSAFE_PATH, f"{raw!r:.200} is no path in UTF-8.") from error


def _pax(data: bytes) -> dict[str, str]:
    found = {}
    while data:
        length, _, rest = data.partition(b" ")
        size = int(length) if re.fullmatch(rb"[0-9]{1,6}", length) else 0
        record = data[:size]
        key, equals, value = record.partition(b" ")[2].removesuffix(b"\n").partition(b"=")
        if not rest or not record.endswith(b"\n") or not equals or len(record) < size:
            raise _damaged("an extended header cannot be read")
        if key.startswith(b"GNU.sparse"):
            raise refusal(Flaw.SPECIAL_MEMBER, "The archive has a sparse file. Pack it plainly.")
        if key in {b"path", b"size"}:
            found[key.decode()] = _text(value)
        data = data[size:]
    return found


def _safe(name: str) -> tuple[str, ...]:
    """The components of a path that stays inside of its folder."""
    parts = tuple(part for part in name.split("/") if part not in {"", "."})
    if name.startswith("/") or ".." in parts or "\\" in name or not name.isprintable():
        raise refusal(
            Flaw.UNSAFE_PATH,
            f"The archive has a member called {name!r:.200}, which leads out of its folder. Pack the folder by a "
            "relative path.",
        )
    return parts


def _expect_plain(kind: bytes, name: str) -> None:
    if kind in _LINKS:
        raise refusal(
            Flaw.LINK,
            f"{name!r:.200} is a link. Pack the file that it leads to: tar -h follows links.",
        )
    if kind not in _FILES and kind != _DIRECTORY:
        raise refusal(Flaw.SPECIAL_MEMBER, f"{name!r:.200} is neither a file nor a folder.")


def _damaged(why: str) -> Exception:
    return refusal(Flaw.ARCHIVE_DAMAGED, f"The archive is damaged: {why}. Pack and send it again.")
