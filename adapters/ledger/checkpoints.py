"""Checkpoints that can be asked, and continued: what a job's adapter was at the end of its latest epochs."""

from collections.abc import Sequence
from pathlib import Path

from adapters.artifacts import Artifacts, size_of
from adapters.clock import Clock
from adapters.db import (
    checkpoints as rows,
    events as event_rows,
    jobs as job_rows,
    outbox,
    pausing,
    storage,
)
from adapters.db.connect import Database
from adapters.db.revision import hold_revision, raise_revision
from adapters.errors import AdapterNotFound
from adapters.manifest import Manifest
from adapters.names import FineTunedName, new_id
from adapters.records import (
    EventKind,
    Job,
    NewEvent,
)
from adapters.webhooks import Happening
from adapters.weights import Checkpoint

#: Of one job.
KEPT = 3
#: How long those of a job that failed or was cancelled are kept.
_IN_VAIN_S = 24 * 3600.0


class CheckpointShelf:
    """The newest few of each job."""

    def __init__(self, database: Database, artifacts: Artifacts, clock: Clock) -> None:
        self._db, self._artifacts, self._clock = database, artifacts, clock

    def keep(self, job: Job, source: Path, manifest: Manifest) -> None:
        """Make an exported directory a checkpoint of the job, and let the oldest go beyond those that are kept.

        As with versions, the bytes are in the store before the transaction begins.

        Raises:
            LeaseLost: the job was cancelled, or belongs to a later attempt. Nothing was kept.
        """
        digest = self._artifacts.put_version(source)
        with self._db.write() as tx:
            now = self._clock()
            pausing.hold_while_stopping(tx, job)
            hold_revision(tx)
            checkpoint = new_checkpoint(job, manifest, digest, now)
            if not rows.add_checkpoint(tx, checkpoint):
                return
            storage.note_size(tx, digest, size_of(source))
            if rows.prune_checkpoints(tx, job.id, kept=KEPT, now=now):
                raise_revision(tx)  # so that nobody goes on serving those that went
            event_rows.append_events(tx, job.id, [created(checkpoint)], now)
            outbox.announce(tx, job, Happening.CHECKPOINT_CREATED, now, step=checkpoint.step)

    def list(
        self, job_id: str, *, after: str | None = None, limit: int = 10
    ) -> Sequence[Checkpoint]:
        """Of a job, newest first. Raises JobNotFound, and InvalidValue for an unknown `after`."""
        with self._db.read() as tx:
            job_rows.get_job(tx, job_id)
            return rows.list_checkpoints(tx, job_id, after=after, limit=limit)

    def find(self, name: str, *, also_deleted: bool = False) -> Checkpoint:
        """The one that answers to a name. Deleted ones have their files for a while. Raises AdapterNotFound."""
        if not name.isascii():
            raise AdapterNotFound(f"There is no checkpoint {name!r:.80}.", param="name")
        with self._db.read() as tx:
            return rows.get_checkpoint(tx, name, also_deleted=also_deleted)

    def purge(self, *, older_than: float) -> int:
        """Remove the files of those that were deleted that many seconds ago; returns how many."""
        now = self._clock()
        with self._db.write() as tx:
            hold_revision(tx)
            if rows.expire_checkpoints(tx, ended_before=now - _IN_VAIN_S, now=now):
                raise_revision(tx)
            condemned = rows.purgeable_checkpoints(tx, before=now - older_than)
        for checkpoint in condemned:
            with self._db.write() as tx:
                unused = rows.forget_checkpoint(tx, checkpoint)
                if unused:
                    storage.forget_size(tx, checkpoint.digest)
            if unused:
                self._artifacts.delete_version(checkpoint.digest)
        return len(condemned)


def new_checkpoint(job: Job, manifest: Manifest, digest: str, now: float) -> Checkpoint:
    """What becomes of a directory of that digest."""
    step = manifest.trained.steps
    name = FineTunedName.of_job(job.id, base_model=job.base_model, adapter=job.adapter, step=step)
    return Checkpoint(
        id=new_id("ftckpt_"),
        job_id=job.id,
        adapter=job.adapter,
        base_model=job.base_model,
        step=step,
        name=str(name),
        digest=digest,
        manifest=manifest,
        created_at=now,
    )


def created(checkpoint: Checkpoint) -> NewEvent:
    """What the job's log says of it."""
    return NewEvent(
        kind=EventKind.CHECKPOINT,
        message=f"Checkpoint created at step {checkpoint.step}",
        data={
            "id": checkpoint.id,
            "fine_tuned_model_checkpoint": checkpoint.name,
            **checkpoint.metrics,
        },
    )
