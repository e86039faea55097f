"""The story of a job, from the worker's side. Light: it supervises the training process and loads no torch.

1. Claim the next job of the base model, with a lease and a fencing number (attempt). Which one that is, and whether it
   may come in beside those already in hand: `triage.py`.
2. Admit it to the warm process, which continues from the job's newest checkpoint if there is one.
3. Tell the ledger what the process reports, and renew the lease: `hands.py`.
4. A job that was cancelled or paused, or that somebody else holds by now, is dropped from the process.
5. A process that dies gives all its jobs back and is started anew. One lost twice without getting further is a suspect.
6. A finished job is published: version, alias and the job's end in one transaction.
"""

import logging
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from pathlib import Path

from adapters.errors import GraftError, LeaseLost, StoreUnavailable, Unavailable
from adapters.ledger import Ledger
from adapters.records import Job, JobError
from trainer.burial import Burial
from trainer.child import AnyReport, ProcessDied, TrainingProcess
from trainer.errands import Errands, Postponed
from trainer.freight import AGAIN_S, WAITS, Freight
from trainer.hands import Hands, Held
from trainer.leftovers import Leftovers
from trainer.messages import (
    Checkpointed,
    Drop,
    Dropped,
    Exported,
    Failed,
    Finished,
    JobReport,
    Ready,
    Squeezed,
)
from trainer.metrics import Metrics
from trainer.placement import Placement
from trainer.publish import gate_result, keep, publish
from trainer.settings import TrainerSettings
from trainer.told import timed_out
from trainer.traces import JobTraces
from trainer.triage import Triage

log = logging.getLogger(__name__)

_RECORD_S, _LOOK_S, _WATCH_S, _PURGE_S = 0.5, 1.0, 5.0, 60.0


class Worker:
    """Trains jobs of one base model in one warm process, many at once."""

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
        placement: Placement,
        traces: JobTraces | None = None,
    ) -> None:
        self._ledger = ledger
        self._process = process
        self._settings = settings
        self._worker_id = worker_id
        self._base_model = base_model
        self._metrics = metrics
        self._hands = Hands(ledger, metrics, traces)
        self._triage = Triage(
            ledger, settings, placement, process.wake, base_model=base_model, worker_id=worker_id
        )
        self._freight = Freight(ledger, work_dir)
        self._errands = Errands(
            self._renew, every=settings.heartbeat_seconds, beside=ledger.states is not None
        )
        self._postponed = Postponed()
        self._leftovers = Leftovers(ledger, work_dir, settings, self._freight)
        self._inbox: deque[AnyReport] = deque()
        self._ready = self._running = False
        self._burial = Burial(ledger, self._hands, settings, worker_id)
        self._due: dict[Callable[[], None], float] = {
            self._record: _RECORD_S,
            self._look: _LOOK_S,
            self._renew: settings.heartbeat_seconds,
            self._watch: min(_WATCH_S, settings.stall_seconds / 4),
            partial(self._leftovers.purge, self._hands): _PURGE_S,
        }
        self._last = dict.fromkeys(self._due, 0.0)

    def run(self, stopping: Callable[[], bool]) -> None:
        """Work until told to stop; then write checkpoints and give the jobs back."""
        while not stopping() and not self._burial.take_back():
            time.sleep(self._settings.poll_seconds)
        while not stopping():
            self.turn()
        self._triage.close()
        self._process.stop(grace=15)
        self._freight.close(held.job.id for held in self._hands)
        self._errands.close()
        reason = "The trainer is stopping; the job continues when it is back"
        try:
            self._hands.give_back(list(self._hands), reason=reason, lost=False)
            self._ledger.queue.leave(self._worker_id)
        except Unavailable as error:
            log.warning("the leases run out by themselves: %s", error)

    def turn(self) -> None:
        """Listen, act, look after what is in hand, claim. One round of the loop."""
        try:
            if not self._running and not self._start():
                return
            self._listen()
            self._tend()
            self._claim()
        except ProcessDied as death:
            self._bury(death)
        except Unavailable as error:
            log.warning("the ledger does not answer: %s", error)
            self._metrics.no_ledger()
            time.sleep(self._settings.poll_seconds)

    def _start(self) -> bool:
        if not self._burial.is_over():
            time.sleep(self._settings.poll_seconds)
            return False
        self._process.start()
        self._running = True
        return True

    # ---- claiming

    def _claim(self) -> None:
        job = self._triage.next(self._hands, ready=self._ready)
        if job is None:
            return
        log.info("claimed %s, attempt %d%s", job.id, job.attempt, ", alone" if job.suspect else "")
        held = self._hands.take(job)
        try:
            self._process.send(self._errands.run(self._freight.bring, job))
        except StoreUnavailable:
            self._hands.give_back([held], reason=WAITS, lost=False, delay=AGAIN_S)
        except Unavailable:
            self._hands.let_go(held)  # its lease runs out, and it is claimed again
            raise
        except GraftError as error:
            self._fail(held, JobError(code=error.code, message=error.message))
        except OSError as error:  # a full disk, say
            self._retry(held, f"What it needs could not be brought here: {error}")

    # ---- reports

    def _listen(self) -> None:
        if not self._inbox:
            self._inbox.extend(self._process.receive(self._triage.patience))
        self._inbox.extendleft(reversed(self._postponed.due()))
        while self._inbox:
            self._handle(self._inbox[0])
            self._inbox.popleft()  # only now: a ledger that did not answer is told again

    def _handle(self, report: AnyReport) -> None:
        if isinstance(report, Ready):
            self._ready = True
            self._burial.forget()
            self._attend()
            log.info("the training process of %s is ready", self._worker_id)
            return
        if isinstance(report, Squeezed):
            self._metrics.squeezed()
            return
        held = self._hands.get(report.job_id)
        if isinstance(report, Dropped):
            if held is not None and held.dropping:
                self._dropped(held)
        elif held is not None and held.job.attempt == report.attempt:
            self._hear(held, report)

    def _hear(self, held: Held, report: JobReport) -> None:
        match report:
            case Finished() | Exported():
                self._store(held, report)
            case Failed():
                self._failed(held, report)
            case Checkpointed():
                suspected = not held.proven
                self._hands.hear(held, report)
                self._freight.send(report.job_id)
                if suspected and held.proven:
                    self._acquit(held)
            case _:
                self._hands.hear(held, report)

    def _store(self, held: Held, report: Finished | Exported) -> None:
        """Where the artifact store does not answer, it is done later; the job has all the time."""
        try:
            if self._postponed.concerns(report.job_id):
                self._postponed.add(report)
            elif isinstance(report, Finished):
                self._finish(held, report)
            else:
                self._keep(held, report)
        except StoreUnavailable:
            held.wait()
            self._postponed.add(report)

    def _keep(self, held: Held, report: Exported) -> None:
        """A checkpoint that can be asked. Where it cannot be stored, the job goes on: nothing depends on it."""
        self._record()
        try:
            self._errands.run(keep, self._ledger, held.job, report.adapter_dir, report.manifest)
        except LeaseLost:
            self._refused(held)
        except OSError as error:
            log.warning("a checkpoint of %s could not be stored: %s", held.job.id, error)

    def _finish(self, held: Held, report: Finished) -> None:
        held.end(report.manifest.trained)
        made, manifest = report.adapter_dir, report.manifest
        gate = gate_result(held.job.spec.gate, manifest)
        try:
            with self._hands.traces.publishing(held.job, gate):
                version = self._errands.run(publish, self._ledger, held.note(), made, manifest)
        except LeaseLost:
            self._refused(held)
        except OSError as error:
            # A full disk, say: the finished directory stays, so the next attempt only publishes.
            self._retry(held, f"The version could not be stored: {error}")
        else:
            log.info("published %s", version.name)
            self._metrics.succeeded(held.ran_seconds, gate)
            self._hands.let_go(held)
            self._leftovers.remove(held.job)

    def _failed(self, held: Held, report: Failed) -> None:
        if report.retryable:
            self._retry(held, report.message)
        else:
            self._fail(held, JobError(code=report.code, message=report.message))

    def _fail(self, held: Held, error: JobError, *, training: bool = False) -> None:
        job = held.job
        try:
            self._hands.record()
            self._ledger.jobs.fail(job.id, job.attempt, error)
            self._metrics.failed(error.code, held.ran_seconds)
            self._hands.traces.ended(job, error.code)
        except LeaseLost:
            log.info("%s was no longer ours to fail", job.id)
        if training:
            self._drop(held)
        else:
            self._stopped(held)

    def _retry(self, held: Held, reason: str) -> None:
        delay = self._settings.retry_after(held.job.losses)
        self._hands.give_back([held], reason=reason, lost=True, delay=delay)

    # ---- looking after what is in hand

    def _tend(self) -> None:
        now = time.monotonic()
        for duty, every in self._due.items():
            if now - self._last[duty] >= every:
                self._last[duty] = now
                duty()

    def _record(self) -> None:
        self._drop(*self._hands.record())

    def _look(self) -> None:
        self._drop(*self._hands.lost())

    def _attend(self) -> None:
        self._ledger.queue.attend(
            self._worker_id,
            base_model=self._base_model,
            slots=self._settings.max_jobs,
            lease_seconds=self._settings.lease_seconds,
        )

    def _renew(self) -> None:
        if self._ready:
            self._attend()
        self._drop(*self._hands.renew(lease_seconds=self._settings.lease_seconds))

    def _watch(self) -> None:
        """Stop what takes too long, and what nothing is heard of."""
        for held in self._hands.overdue(self._settings.max_runtime_seconds):
            self._fail(held, timed_out(self._settings.max_runtime_seconds), training=True)
        silent = self._hands.silent(self._settings.stall_seconds)
        if silent and (len(silent) == len(self._hands) or any(held.stalled for held in silent)):
            raise ProcessDied(f"it said nothing for {self._settings.stall_seconds:.0f} s")
        for held in silent:
            log.error("nothing is heard of %s", held.job.id)
            self._drop(held)
            held.stalled, held.heard_at = True, time.monotonic()

    # ---- letting go

    def _drop(self, *dropped: Held) -> None:
        for held in dropped:
            if not held.dropping:
                keep = self._goes_on(held.job)
                log.info("dropping %s%s", held.job.id, ", which goes on later" if keep else "")
                self._process.send(Drop(job_id=held.job.id, keep=keep))
                held.dropping = True

    def _refused(self, held: Held) -> None:
        self._metrics.fenced()
        self._drop(held)

    def _goes_on(self, job: Job) -> bool:
        """Whether a later attempt will want what this one has learned: it is paused, or makes way."""
        now = self._ledger.jobs.get(job.id)
        return now.attempt == job.attempt and not now.status.terminal

    def _dropped(self, held: Held) -> None:
        if held.stalled:
            self._retry(held, "Nothing was heard of the job; continuing from the last checkpoint")
        elif held.makes_way:
            reason = "The job got past where it was lost, and makes way for another that must"
            self._hands.give_back([held], reason=reason, lost=False)
        else:
            self._stopped(held)

    def _stopped(self, held: Held) -> None:
        # Where it is still ours, it was paused and resumed while the process let go.
        self._hands.give_back([held], reason="The job was resumed", lost=False)
        if self._ledger.jobs.get(held.job.id).status.terminal:
            self._leftovers.remove(held.job)

    def _acquit(self, held: Held) -> None:
        """A suspect got past where it was lost. If others must still prove that, it waits: its checkpoint is fresh."""
        log.info("%s got past step %d", held.job.id, held.job.lost_at)
        if not held.dropping and self._triage.must_make_way():
            held.makes_way = True
            self._drop(held)

    def _bury(self, death: ProcessDied) -> None:
        self._metrics.died()
        self._ready = self._running = False
        self._inbox.clear()
        self._postponed.clear()
        self._triage.close()
        self._burial.hold(death)
