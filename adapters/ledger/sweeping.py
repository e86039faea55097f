"""What lies in the store and nobody names: left by processes that were killed between the bytes and the transaction.

Three things are asked before anything goes. That the store is this ledger's: it says so itself. That the bytes are
older than anybody takes to name what they have stored. That they are younger than the ledger: what was there before,
somebody else has put there.
"""

import logging
from collections.abc import Iterable, Iterator, Sequence

from adapters.artifacts import Artifacts, Stored
from adapters.bucket.states import BucketStates
from adapters.db import naming
from adapters.db.connect import Database

log = logging.getLogger(__name__)

_AT_ONCE = 500


class Sweeper:
    """Looks through all of the store: some seconds for a hundred thousand objects."""

    def __init__(
        self, database: Database, artifacts: Artifacts, states: BucketStates | None
    ) -> None:
        self._db, self._artifacts, self._states = database, artifacts, states

    def sweep(self, *, now: float, older_than: float) -> int:
        """Remove what nobody names and has lain here for that many seconds; returns how much.

        Raises:
            StoreUnavailable: the bucket does not answer; nothing is half-done by that.
        """
        assert self._db.tenant is None, "to one tenant, everything of the others' looks forgotten"
        with self._db.read() as tx:
            ledger_id, since = naming.identity(tx)
        if not self._artifacts.belongs_to(ledger_id):
            log.error("the artifact store belongs to another ledger; nothing in it is removed")
            return 0
        aged = (
            stored
            for stored in self._artifacts.stored()
            if since < stored.changed_at < now - older_than
        )
        removed = sum(self._remove_unnamed(batch) for batch in _batches(aged))
        return removed + self._forget_states()

    def _remove_unnamed(self, batch: Sequence[Stored]) -> int:
        files = {stored.name for stored in batch if stored.kind == "file"}
        versions = {stored.name for stored in batch if stored.kind == "version"}
        with self._db.read() as tx:
            files -= naming.named_files(tx, files)
            versions -= naming.named_digests(tx, versions)
        for file_id in files:
            self._artifacts.delete_file(file_id)
        for digest in versions:
            self._artifacts.delete_version(digest)
        return len(files) + len(versions)

    def _forget_states(self) -> int:
        """Checkpoints of jobs that have ended while their machine, or the bucket, was away."""
        if self._states is None:
            return 0
        there = self._states.jobs()
        with self._db.read() as tx:
            ended = there - naming.unended_jobs(tx, there)
        for job_id in ended:
            self._states.delete(job_id)
        return len(ended)


def _batches(all_of: Iterable[Stored]) -> Iterator[list[Stored]]:
    batch: list[Stored] = []
    for stored in all_of:
        batch.append(stored)
        if len(batch) == _AT_ONCE:
            yield batch
            batch = []
    if batch:
        yield batch
