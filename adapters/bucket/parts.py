"""The parts of uploads in a bucket: who receives a part and who joins them may be two machines."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from adapters.bucket.client import Absent, Bucket
from adapters.errors import ArtifactCorrupt, StoreUnavailable
from adapters.files import Part
from adapters.parts import Joined, LocalParts


class BucketParts:
    """Parts in a bucket, which are joined in a local folder."""

    def __init__(self, bucket: Bucket, root: Path) -> None:
        self._bucket, self._root = bucket, root
        root.mkdir(parents=True, exist_ok=True)

    def take(self, source: Path, part_id: str) -> None:
        self._bucket.put(f"parts/{part_id}", source)
        source.unlink()

    @contextmanager
    def joined(self, parts: Sequence[Part]) -> Iterator[Joined]:
        with TemporaryDirectory(dir=self._root) as folder:
            for part in {part.id: part for part in parts}.values():
                self._bring(part, Path(folder) / part.id)
            with LocalParts(Path(folder)).joined(parts) as whole:
                yield whole

    def delete(self, part_id: str) -> None:
        self._bucket.delete([f"parts/{part_id}"])

    def sweep(self, *, older_than: float) -> None:
        before = time.time() - older_than
        with suppress(StoreUnavailable):  # another time
            entries = self._bucket.entries("parts/")
            self._bucket.delete([entry.key for entry in entries if entry.changed_at < before])

    def _bring(self, part: Part, target: Path) -> None:
        key = f"parts/{part.id}"
        try:
            self._bucket.fetch(key, target, size=part.bytes, digest=part.digest)
        except Absent as error:
            raise ArtifactCorrupt(f"The part {part.id} is missing from the store.") from error
