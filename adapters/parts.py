"""The parts of uploads, until they are joined to a file.

<root>/<part id>                 one part
<root>/.<random>                 a file that is being joined
"""

import hashlib
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from uuid import uuid4

from adapters.durable import move
from adapters.errors import ArtifactCorrupt
from adapters.files import Part

_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Joined:
    """Parts laid end to end. Not yet on the disk for sure: whoever keeps the file sees to that."""

    path: Path
    bytes: int
    #: In hex.
    sha256: str
    md5: str


class Parts(Protocol):
    """Where parts are kept. Methods raise StoreUnavailable where bytes must travel and cannot."""

    def take(self, source: Path, part_id: str) -> None:
        """Keep a part; its bytes are moved. Durable on return."""

    def joined(self, parts: Sequence[Part]) -> AbstractContextManager[Joined]:
        """The parts as one file, which is removed on leaving unless somebody has moved it away.

        Raises:
            ArtifactCorrupt: a part is gone.
        """

    def delete(self, part_id: str) -> None:
        """Forget the part, if it is there."""

    def sweep(self, *, older_than: float) -> None:
        """Remove what no upload can still want, because it is that many seconds old: left by processes that died."""


class LocalParts:
    """Parts in a local directory."""

    def __init__(self, root: Path) -> None:
        self._root = root
        root.mkdir(parents=True, exist_ok=True)

    def take(self, source: Path, part_id: str) -> None:
        move(source, self._root / part_id)

    @contextmanager
    def joined(self, parts: Sequence[Part]) -> Iterator[Joined]:
        aside = self._root / f".{uuid4().hex}"
        try:
            yield self._join([part.id for part in parts], aside)
        finally:
            aside.unlink(missing_ok=True)

    def delete(self, part_id: str) -> None:
        (self._root / part_id).unlink(missing_ok=True)

    def sweep(self, *, older_than: float) -> None:
        for left in self._root.iterdir():
            with suppress(FileNotFoundError):  # where another worker sweeps too
                if time.time() - left.stat().st_mtime > older_than:
                    left.unlink()

    def _join(self, part_ids: Sequence[str], target: Path) -> Joined:
        sha256, md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
        size = 0
        with target.open("wb") as joined:
            for part_id in part_ids:
                for chunk in self._read(part_id):
                    joined.write(chunk)
                    sha256.update(chunk)
                    md5.update(chunk)
                    size += len(chunk)
        return Joined(path=target, bytes=size, sha256=sha256.hexdigest(), md5=md5.hexdigest())

    def _read(self, part_id: str) -> Iterator[bytes]:
        try:
            with (self._root / part_id).open("rb") as part:
                while chunk := part.read(_CHUNK):
                    yield chunk
        except FileNotFoundError as error:
            raise ArtifactCorrupt(f"The part {part_id} is missing from the store.") from error
