"""The ledger: database and artifact store together, one method for each thing that happens.

Each method is one transaction. What a caller is told is durable by then.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy.exc import IntegrityError

from adapters.artifacts import Artifacts, LocalArtifacts, digest_file
from adapters.db import (
    events as event_rows,
    files as file_rows,
    jobs as job_rows,
    registry,
    replies,
)
from adapters.db.connect import Database
from adapters.db.migrate import migrate
from adapters.errors import InvalidValue
from adapters.manifest import Manifest
from adapters.names import LIVE, new_id
from adapters.records import (
    Adapter,
    Event,
    EventKind,
    File,
    IdempotencyKey,
    Job,
    JobError,
    JobStatus,
    NewEvent,
    NewJob,
    Phase,
    Progress,
    Reply,
    Version,
)
from adapters.settings import LedgerSettings

Clock = Callable[[], float]


class FileShelf:
    """Uploaded files."""

    def __init__(self, database: Database, artifacts: Artifacts, clock: Clock) -> None:
        self._db, self._artifacts, self._clock = database, artifacts, clock

    def add(self, path: Path, *, filename: str, purpose: str) -> File:
        """Keep a file's bytes, then record it."""
        file = File(
            id=new_id("file-"),
            filename=filename,
            purpose=purpose,
            bytes=path.stat().st_size,
            digest=digest_file(path),
            created_at=self._clock(),
        )
        self._artifacts.put_file(path, file.id)
        with self._db.write() as tx:
            file_rows.add_file(tx, file)
        return file

    def get(self, file_id: str) -> File:
        """Raises FileNotFound."""
        with self._db.read() as tx:
            return file_rows.get_file(tx, file_id)

    def path(self, file_id: str) -> Path:
        """A local path to the file's bytes. Raises FileNotFound."""
        return self._artifacts.file(self.get(file_id).id)

    def list(self, *, limit: int = 10_000) -> Sequence[File]:
        """Newest first."""
        with self._db.read() as tx:
            return file_rows.list_files(tx, limit=limit)

    def delete(self, file_id: str) -> File:
        """Forget the file and its bytes. Raises FileNotFound, FileInUse."""
        with self._db.write() as tx:
            file = file_rows.delete_file(tx, file_id)
        self._artifacts.delete_file(file.id)
        return file


class JobQueue:
    """Jobs, from both sides: those who ask, and the worker that does."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._db, self._clock = database, clock

    def find_reply(self, key: IdempotencyKey) -> Reply | None:
        """What a repeated request gets back. Raises IdempotencyKeyReused."""
        with self._db.read() as tx:
            return replies.find_reply(tx, key, self._clock())

    def submit(
        self, new: NewJob, *, key: IdempotencyKey | None = None, render: Callable[[Job], Reply]
    ) -> Reply:
        """Queue a job and store what is answered, in one transaction. Two requests with one key make one job.

        Raises:
            IdempotencyKeyReused: the key came with another request before.
            InvalidValue: the adapter belongs to another base model.
        """
        try:
            with self._db.write() as tx:
                now = self._clock()
                owner = registry.base_model_of(tx, new.adapter)
                if owner not in {None, new.base_model}:
                    raise InvalidValue(
                        f"The adapter '{new.adapter}' belongs to the base model '{owner}'. "
                        "Choose another name, or that base model.",
                        param="name",
                    )
                job = job_rows.add_job(tx, new, now)
                created = f"Created fine-tuning job: {job.id}"
                event = NewEvent(kind=EventKind.STATUS, message=created)
                event_rows.append_events(tx, job.id, [event], now)
                reply = render(job)
                if key is not None:
                    replies.store_reply(tx, key, reply, now)
                return reply
        except IntegrityError:
            # The other request with this key has committed first: answer as it was answered.
            stored = self.find_reply(key) if key is not None else None
            if stored is None:
                raise
            return stored

    def get(self, job_id: str) -> Job:
        """Raises JobNotFound."""
        with self._db.read() as tx:
            return job_rows.get_job(tx, job_id)

    def list(self, *, after: str | None = None, limit: int = 20) -> Sequence[Job]:
        """Newest first. Raises JobNotFound for an unknown `after`."""
        with self._db.read() as tx:
            return job_rows.list_jobs(tx, after=after, limit=limit)

    def position(self, job: Job) -> int | None:
        """The place in the queue, from 1; None for a job that does not wait."""
        if job.status is not JobStatus.QUEUED:
            return None
        with self._db.read() as tx:
            return job_rows.queue_position(tx, job)

    def count(self) -> dict[str, int]:
        """Jobs by status."""
        with self._db.read() as tx:
            return job_rows.count_jobs(tx)

    def events(self, job_id: str, *, after: int = 0, limit: int = 1000) -> Sequence[Event]:
        """The job's log after a sequence number, oldest first."""
        with self._db.read() as tx:
            return event_rows.list_events(tx, job_id, after=after, limit=limit)

    def cancel(self, job_id: str) -> Job:
        """End the job at once. Raises JobNotFound, JobNotCancellable."""
        with self._db.write() as tx:
            return job_rows.cancel_job(tx, job_id, self._clock())

    def claim(
        self, *, worker: str, base_model: str, lease_seconds: float, max_losses: int
    ) -> Job | None:
        """Take the next job of a base model, or None. One that its process has died of too often fails instead."""
        with self._db.write() as tx:
            now = self._clock()
            while True:
                job = job_rows.claim_job(
                    tx, worker=worker, base_model=base_model, now=now, lease_seconds=lease_seconds
                )
                if job is None or job.losses < max_losses:
                    break
                error = JobError(
                    code="worker_lost",
                    message=f"The training process died {job.losses} times at this point of the job. "
                    "The trainer's log says how; out of memory is the usual reason.",
                )
                job_rows.fail_job(tx, job.id, job.attempt, error, now)
            if job is not None:
                first = job.attempt == 1
                told = "Fine-tuning job started" if first else f"Attempt {job.attempt} started"
                event = NewEvent(kind=EventKind.STATUS, message=told, data={"attempt": job.attempt})
                event_rows.append_events(tx, job.id, [event], now)
            return job

    def renew(self, job_id: str, attempt: int, *, lease_seconds: float) -> None:
        """Prove that the worker lives. Raises LeaseLost."""
        with self._db.write() as tx:
            job_rows.renew_lease(tx, job_id, attempt, until=self._clock() + lease_seconds)

    def record(
        self,
        job: Job,
        *,
        phase: Phase,
        progress: Progress,
        events: Sequence[NewEvent] = (),
        checkpointed: bool = False,
    ) -> None:
        """Store how far a job is. Raises LeaseLost."""
        with self._db.write() as tx:
            job_rows.record_progress(tx, job.id, job.attempt, phase=phase, progress=progress)
            if checkpointed:
                job_rows.forget_losses(tx, job.id, job.attempt)
            event_rows.append_events(tx, job.id, events, self._clock())

    def fail(self, job_id: str, attempt: int, error: JobError) -> None:
        """End a job as failed. Raises LeaseLost."""
        with self._db.write() as tx:
            job_rows.fail_job(tx, job_id, attempt, error, self._clock())

    def requeue(self, job: Job, *, reason: str, lost: bool, delay: float = 0.0) -> None:
        """Give a job back; `lost` counts towards the losses that it may have in a row. Raises LeaseLost."""
        with self._db.write() as tx:
            now = self._clock()
            job_rows.requeue_job(tx, job, lost=lost, not_before=now + delay, reason=reason, now=now)

    def take_back(self, worker: str) -> int:
        """Requeue what an earlier process of this worker still holds; only for who is that worker now."""
        with self._db.write() as tx:
            now = self._clock()
            left = job_rows.jobs_of_worker(tx, worker)
            for job in left:
                job_rows.requeue_job(
                    tx,
                    job,
                    lost=True,
                    not_before=now,
                    reason="The trainer was restarted; continuing from the last checkpoint",
                    now=now,
                )
            return len(left)

    def confirm_stopped(self, job_id: str) -> None:
        """Record that no worker trains a cancelled job any more."""
        with self._db.write() as tx:
            job_rows.confirm_stopped(tx, job_id)


class Registry:
    """Adapters, versions, aliases."""

    def __init__(self, database: Database, artifacts: Artifacts, clock: Clock) -> None:
        self._db, self._artifacts, self._clock = database, artifacts, clock

    def publish(self, job: Job, source: Path, manifest: Manifest, *, promote: bool) -> Version:
        """Make a trained directory the adapter's next version and settle the job: both or neither.

        The bytes are in the store before the transaction begins, so a crash leaves at most bytes that nobody names.

        Raises:
            LeaseLost: the job was cancelled, or belongs to a later attempt. Nothing was published.
        """
        digest = self._artifacts.put_version(source)
        with self._db.write() as tx:
            now = self._clock()
            job_rows.hold_job(tx, job.id, job.attempt)
            version = registry.add_version(tx, job.adapter, manifest, digest, now)
            if promote:
                registry.set_alias(tx, job.adapter, LIVE, version.number)
            job_rows.settle_job(
                tx,
                job.id,
                job.attempt,
                model=version.name,
                trained_tokens=manifest.result.trained_tokens,
                now=now,
            )
            event_rows.append_events(tx, job.id, _published(version, promote=promote), now)
        return version

    def directory(self, version: Version) -> Path:
        """A local directory with the version's PEFT files."""
        return self._artifacts.version(version.digest)

    def get(self, name: str) -> Adapter:
        """Raises AdapterNotFound."""
        with self._db.read() as tx:
            return registry.get_adapter(tx, name)

    def list(self) -> Sequence[Adapter]:
        """All adapters, by name."""
        with self._db.read() as tx:
            return registry.list_adapters(tx)

    def changes(self, *, since: int) -> tuple[int, Sequence[Adapter]]:
        """The newest revision, and what changed after `since`. A deleted adapter comes without versions."""
        with self._db.read() as tx:
            revision = registry.current_revision(tx)
            changed = registry.changed_adapters(tx, since=since) if revision > since else []
            return revision, changed

    def promote(self, name: str, number: int, *, alias: str = LIVE) -> Adapter:
        """Point an alias at a version. Raises AdapterNotFound."""
        with self._db.write() as tx:
            registry.set_alias(tx, name, alias, number)
            return registry.get_adapter(tx, name)

    def delete(self, name: str) -> Adapter:
        """Delete an adapter. Raises AdapterNotFound."""
        with self._db.write() as tx:
            return registry.delete_adapter(tx, name, self._clock())

    def delete_version(self, name: str, number: int) -> Version:
        """Delete one version. Raises AdapterNotFound, InvalidRequest."""
        with self._db.write() as tx:
            return registry.delete_version(tx, name, number, self._clock())

    def purge(self, *, older_than: float) -> int:
        """Remove the files of versions that were deleted that many seconds ago; returns how many."""
        now = self._clock()
        with self._db.read() as tx:
            condemned = registry.purgeable_versions(tx, before=now - older_than)
        for version in condemned:
            with self._db.write() as tx:
                unused = registry.mark_purged(tx, version, now)
            if unused:
                self._artifacts.delete_version(version.digest)
        return len(condemned)


@dataclass(frozen=True, slots=True)
class Ledger:
    """Everything that outlives a process."""

    files: FileShelf
    jobs: JobQueue
    registry: Registry
    _database: Database

    def close(self) -> None:
        """Close the database connections."""
        self._database.close()


def open_ledger(settings: LedgerSettings, *, clock: Clock = time.time) -> Ledger:
    """Open, and where needed create or upgrade, the ledger that the settings name."""
    database = Database(settings.database)
    migrate(database)
    artifacts = LocalArtifacts(settings.artifacts_dir)
    return Ledger(
        files=FileShelf(database, artifacts, clock),
        jobs=JobQueue(database, clock),
        registry=Registry(database, artifacts, clock),
        _database=database,
    )


def _published(version: Version, *, promote: bool) -> list[NewEvent]:
    data = {"kind": "published", "version": version.name, "live": promote}
    told = [
        NewEvent(
            kind=EventKind.MESSAGE,
            message=f"New fine-tuned model created: {version.name}",
            data=data,
        )
    ]
    if not promote:
        told.append(
            NewEvent(
                kind=EventKind.MESSAGE,
                level="warn",
                message=f"{version.name} does not beat the base model on held-out rows, so "
                f"'{version.adapter}' does not mean it yet. Use '{version.name}', or promote it.",
            )
        )
    told.append(NewEvent(kind=EventKind.STATUS, message="The job has successfully completed"))
    return told
