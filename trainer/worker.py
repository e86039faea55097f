"""The story of one job, from the worker's side. Light: it supervises the training process and loads no torch.

1. Claim the next job of the base model, with a lease and a fencing number (attempt).
2. Admit it to the warm process, which continues from the job's newest checkpoint if there is one.
3. Tell the ledger what the process reports, and renew the lease.
4. A job that was cancelled, or that somebody else holds by now, is dropped from the process.
5. A process that dies gives its jobs back to the queue and is started anew.
6. A finished job is published: version, alias and the job's end in one transaction.
"""

import logging
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from adapters.errors import GraftError, LeaseLost, Unavailable
from adapters.ledger import Ledger
from adapters.manifest import TrainingResult
from adapters.records import Job, JobError, JobStatus, NewEvent, Phase, Progress
from trainer import told
from trainer.child import AnyReport, ProcessDied, TrainingProcess
from trainer.messages import (
    Admit,
    Checkpointed,
    Drop,
    Dropped,
    Evaluated,
    Failed,
    Finished,
    JobReport,
    Ready,
    Started,
    Stepped,
)
from trainer.metrics import Metrics
from trainer.publish import publish
from trainer.settings import TrainerSettings

log = logging.getLogger(__name__)

_RECORD_S = 0.5
_LOOK_S = 1.0
_PURGE_S = 60.0
_RETRY_S = 10.0
_MAX_PAUSE_S = 30.0


@dataclass(slots=True)
class Held:
    """A job in hand: what is known of it and not yet written down."""

    job: Job
    progress: Progress = field(default_factory=Progress)
    phase: Phase = Phase.PREPARING
    unsaid: list[NewEvent] = field(default_factory=list)
    step: Stepped | None = None
    checkpointed: bool = False
    dropping: bool = False


class Worker:
    """Trains the jobs of one base model, one at a time."""

    def __init__(  # noqa: PLR0913  what it works with, each made by the composition root
        self,
        *,
        ledger: Ledger,
        process: TrainingProcess,
        settings: TrainerSettings,
        base_model: str,
        worker_id: str,
        work_dir: Path,
        metrics: Metrics,
    ) -> None:
        self._ledger = ledger
        self._process = process
        self._settings = settings
        self._base_model = base_model
        self._worker_id = worker_id
        self._work_dir = work_dir
        self._metrics = metrics
        self._held: dict[str, Held] = {}
        self._ready = False
        self._running = False
        self._start_at = 0.0
        self._pause_s = 0.0
        self._due = {
            self._say: _RECORD_S,
            self._look: _LOOK_S,
            self._renew: settings.heartbeat_seconds,
        }
        self._due[self._purge] = _PURGE_S
        self._last = dict.fromkeys(self._due, 0.0)

    def run(self, stopping: Callable[[], bool]) -> None:
        """Work until told to stop; then write checkpoints and give the jobs back."""
        taken = self._ledger.jobs.take_back(self._worker_id)
        if taken:
            log.info("took back %d jobs of an earlier process", taken)
        while not stopping():
            self.turn()
        self._process.stop(grace=15)
        self._give_back("The trainer is stopping; the job continues when it is back", lost=False)

    def turn(self) -> None:
        """Listen, act, look after what is held, claim. One round of the loop."""
        try:
            if not self._running and not self._start():
                return
            for report in self._process.receive(self._settings.poll_seconds):
                self._handle(report)
            self._tend()
            self._claim()
        except ProcessDied as death:
            self._bury(death)
        except Unavailable as error:
            log.warning("the ledger does not answer: %s", error)
            time.sleep(self._settings.poll_seconds)

    def _start(self) -> bool:
        if time.monotonic() < self._start_at:
            time.sleep(self._settings.poll_seconds)
            return False
        self._process.start()
        self._running = True
        return True

    # ---- claiming

    def _claim(self) -> None:
        if not self._ready or self._held:
            return
        job = self._ledger.jobs.claim(
            worker=self._worker_id,
            base_model=self._base_model,
            lease_seconds=self._settings.lease_seconds,
            max_losses=self._settings.max_losses,
        )
        if job is None:
            return
        log.info("claimed %s, attempt %d", job.id, job.attempt)
        self._held[job.id] = Held(job, progress=job.progress)
        try:
            self._process.send(self._admission(job))
        except GraftError as error:
            self._fail(job, JobError(code=error.code, message=error.message))

    def _admission(self, job: Job) -> Admit:
        files = self._ledger.files
        return Admit(
            job_id=job.id,
            attempt=job.attempt,
            spec=job.spec,
            data=files.path(job.training_file),
            validation=files.path(job.validation_file) if job.validation_file else None,
            work_dir=self._work_dir / job.id,
            dataset_digest=job.dataset.digest,
        )

    # ---- reports

    def _handle(self, report: AnyReport) -> None:
        if isinstance(report, Ready):
            self._ready, self._pause_s = True, 0.0
            log.info("training process of %s is ready", self._base_model)
        elif isinstance(report, Dropped):
            self._release(report.job_id)
        else:
            held = self._held.get(report.job_id)
            if held is not None and held.job.attempt == report.attempt:
                self._take_note(held, report)

    def _take_note(self, held: Held, report: JobReport) -> None:
        match report:
            case Started():
                held.phase = Phase.TRAINING
                held.progress = replace(held.progress, total_steps=report.total_steps)
                held.unsaid += told.started(report)
            case Stepped():
                held.phase, held.progress, held.step = Phase.TRAINING, report.progress, report
            case Evaluated():
                held.unsaid.append(told.evaluated(report, held.progress.total_steps))
            case Checkpointed():
                held.checkpointed = True
                held.unsaid.append(told.checkpointed(report))
            case Finished():
                self._finish(held, report)
            case Failed():
                self._failed(held.job, report)

    def _finish(self, held: Held, report: Finished) -> None:
        held.phase = Phase.PUBLISHING
        held.progress = _ended(held.progress, report.manifest.result)
        held.unsaid += told.finished(report.manifest.result)
        try:
            self._record(held)
            version = publish(self._ledger, held.job, report.adapter_dir, report.manifest)
        except LeaseLost:
            self._drop(held)
        except OSError as error:
            # A full disk, say: the finished directory stays, so the next attempt only publishes.
            self._retry(held.job, f"The version could not be stored: {error}")
        else:
            log.info("published %s", version.name)
            self._metrics.finished.labels("succeeded").inc()
            self._release(held.job.id)

    def _failed(self, job: Job, report: Failed) -> None:
        if report.retryable:
            self._retry(job, report.message)
        else:
            self._fail(job, JobError(code=report.code, message=report.message))

    def _fail(self, job: Job, error: JobError) -> None:
        try:
            self._record(self._held[job.id])
            self._ledger.jobs.fail(job.id, job.attempt, error)
            self._metrics.finished.labels("failed").inc()
        except LeaseLost:
            log.info("%s was no longer ours to fail", job.id)
        self._release(job.id)

    def _retry(self, job: Job, reason: str) -> None:
        try:
            self._ledger.jobs.requeue(job, reason=reason, lost=True, delay=_RETRY_S * job.attempt)
        except LeaseLost:
            log.info("%s was no longer ours to retry", job.id)
        self._held.pop(job.id)

    # ---- looking after what is held

    def _tend(self) -> None:
        now = time.monotonic()
        for duty, every in self._due.items():
            if now - self._last[duty] >= every:
                self._last[duty] = now
                duty()

    def _say(self) -> None:
        for held in list(self._held.values()):
            if held.step is not None or held.unsaid:
                self._keeping(held, lambda held=held: self._record(held))  # type: ignore[misc]

    def _look(self) -> None:
        for held in list(self._held.values()):
            if self._ledger.jobs.get(held.job.id).status is not JobStatus.RUNNING:
                self._drop(held)

    def _renew(self) -> None:
        lease = self._settings.lease_seconds
        for held in list(self._held.values()):
            job = held.job
            self._keeping(
                held,
                lambda job=job: self._ledger.jobs.renew(job.id, job.attempt, lease_seconds=lease),  # type: ignore[misc]
            )

    def _purge(self) -> None:
        purged = self._ledger.registry.purge(older_than=self._settings.purge_after_seconds)
        if purged:
            log.info("removed the files of %d deleted versions", purged)
        self._sweep()

    def _sweep(self) -> None:
        """Remove what jobs left that ended while no process had them: cancelled in the queue, lost once too often."""
        for folder in self._work_dir.glob("ftjob-*"):
            if folder.name not in self._held and self._ledger.jobs.get(folder.name).status.terminal:
                shutil.rmtree(folder, ignore_errors=True)

    def _keeping(self, held: Held, write: Callable[[], None]) -> None:
        try:
            write()
        except LeaseLost:
            self._drop(held)

    def _record(self, held: Held) -> None:
        steps = [told.stepped(held.step)] if held.step else []
        events = [*held.unsaid, *steps]
        self._ledger.jobs.record(
            held.job,
            phase=held.phase,
            progress=held.progress,
            events=events,
            checkpointed=held.checkpointed,
        )
        self._metrics.note(held.job, held.progress)
        held.unsaid, held.step, held.checkpointed = [], None, False

    # ---- letting go

    def _drop(self, held: Held) -> None:
        if not held.dropping:
            log.info("dropping %s", held.job.id)
            self._process.send(Drop(job_id=held.job.id))
            held.dropping = True

    def _release(self, job_id: str) -> None:
        held = self._held.pop(job_id, None)
        if held is None:
            return
        self._ledger.jobs.confirm_stopped(job_id)
        self._metrics.forget(held.job)
        if self._ledger.jobs.get(job_id).status.terminal:
            shutil.rmtree(self._work_dir / job_id, ignore_errors=True)

    def _bury(self, death: ProcessDied) -> None:
        log.error("the training process of %s died: %s", self._base_model, death)
        self._metrics.deaths.inc()
        self._ready = self._running = False
        self._start_at = time.monotonic() + self._pause_s
        self._pause_s = min(_MAX_PAUSE_S, self._pause_s * 2 or 0.5)
        self._give_back(
            f"The training process died ({death}); continuing from the last checkpoint", lost=True
        )

    def _give_back(self, reason: str, *, lost: bool) -> None:
        for held in list(self._held.values()):
            try:
                self._record(held)
                self._ledger.jobs.requeue(held.job, reason=reason, lost=lost)
            except LeaseLost:
                self._ledger.jobs.confirm_stopped(held.job.id)
            self._metrics.forget(held.job)
        self._held.clear()


def _ended(progress: Progress, result: TrainingResult) -> Progress:
    """What the finished job shows: the losses of the version that is published, not of the last step."""
    return replace(
        progress,
        percent=100.0,
        valid_loss=result.published_valid_loss,
        base_valid_loss=result.base_valid_loss,
        eta_seconds=0.0,
    )
