"""The room that a tenant has, and what it has taken of it."""

from adapters.artifacts import Artifacts, size_of
from adapters.clock import Clock
from adapters.db import storage
from adapters.db.connect import Database
from adapters.errors import ArtifactCorrupt
from adapters.quotas import Stored


class Storage:
    """What is kept for a tenant. `limit`, in bytes, is None where nothing bounds it."""

    def __init__(
        self, database: Database, artifacts: Artifacts, clock: Clock, limit: int | None
    ) -> None:
        self._db, self._artifacts, self._clock = database, artifacts, clock
        self.limit = limit

    def measure(self) -> Stored:
        """What is kept now."""
        with self._db.read() as tx:
            return storage.measure(tx, self._clock())

    def require_room(self, *, more: int) -> None:
        """Look whether so many bytes more may be kept. Whoever records them looks again. Raises OverQuota."""
        if self.limit is not None:
            storage.refuse_beyond(self.measure(), self.limit, more=more)

    def weigh(self) -> int:
        """Measure versions and checkpoints that came before sizes were written down; returns how many."""
        with self._db.read() as tx:
            unknown = storage.unmeasured(tx)
        for digest in unknown:
            try:
                size = size_of(self._artifacts.version(digest))
            except ArtifactCorrupt:  # purged meanwhile, or lost: either way it takes no room
                continue
            with self._db.write() as tx:
                storage.note_size(tx, digest, size)
        return len(unknown)
