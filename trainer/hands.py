"""The jobs that a worker has in hand, and what it says of them to the ledger: one transaction for all."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from adapters.ledger import Ledger
from adapters.manifest import TrainingResult
from adapters.records import (
    Job,
    JobNote,
    NewEvent,
    Phase,
    Progress,
)
from trainer import told
from trainer.messages import Checkpointed, Evaluated, Started, Stepped
from trainer.metrics import Metrics
from trainer.traces import JobTraces


@dataclass(slots=True)
class Held:
    """A job in hand: what is known of it and not yet written down."""

    job: Job
    progress: Progress
    #: False for a suspect that has no checkpoint yet beyond where it was lost.
    proven: bool
    phase: Phase = Phase.PREPARING
    unsaid: list[NewEvent] = field(default_factory=list)
    step: Stepped | None = None
    checkpoint: int | None = None
    #: The process has been told to drop it.
    dropping: bool = False
    #: It is dropped for another job's sake, and goes on later.
    makes_way: bool = False
    #: It is dropped because nothing was heard of it.
    stalled: bool = False
    #: What it has made waits for the artifact store.
    waits: bool = False
    taken_at: float = field(default_factory=time.monotonic)
    heard_at: float = field(default_factory=time.monotonic)

    def hear(self, report: Started | Stepped | Evaluated | Checkpointed) -> None:
        """Take in what the process says."""
        self.heard_at = time.monotonic()
        match report:
            case Started():
                self.phase = Phase.TRAINING
                self.progress = replace(self.progress, total_steps=report.total_steps)
                self.unsaid += told.started(report)
            case Stepped():
                self.phase, self.progress, self.step = Phase.TRAINING, report.progress, report
            case Evaluated():
                self.unsaid.append(told.evaluated(report, self.progress.total_steps))
            case Checkpointed():
                self.checkpoint = report.step
                self.proven = self.proven or report.step > self.job.lost_at
                self.unsaid.append(told.checkpointed(report))

    def end(self, result: TrainingResult) -> None:
        """Training is over. What the job shows are the losses of what is published, not of the last step."""
        if self.phase is Phase.PUBLISHING:
            return  # the store did not answer the last time
        self.phase = Phase.PUBLISHING
        self.progress = replace(
            self.progress,
            percent=100.0,
            valid_loss=result.published_valid_loss,
            base_valid_loss=result.base_valid_loss,
            valid_accuracy=result.valid_accuracy,
            eta_seconds=0.0,
        )
        self.unsaid += told.finished(result)

    def wait(self) -> None:
        """The artifact store does not answer; that is said once."""
        self.heard_at = time.monotonic()
        if not self.waits:
            self.waits = True
            self.unsaid.append(told.waiting())

    @property
    def ran_seconds(self) -> float:
        """How long the job has been in training, earlier attempts included."""
        return self.job.ran_seconds + time.monotonic() - self.taken_at

    @property
    def silent_seconds(self) -> float:
        """How long nothing was heard of it."""
        return time.monotonic() - self.heard_at

    @property
    def news(self) -> bool:
        """Whether there is anything to write down."""
        return self.step is not None or bool(self.unsaid)

    def note(self) -> JobNote:
        """What is not written down yet."""
        steps = [told.stepped(self.step)] if self.step else []
        return JobNote(
            job=self.job,
            phase=self.phase,
            progress=self.progress,
            events=(*self.unsaid, *steps),
            checkpoint=self.checkpoint,
        )

    def written(self) -> None:
        """All of it is written down now."""
        self.unsaid, self.step, self.checkpoint = [], None, None


class Hands:
    """The jobs in hand, by id."""

    def __init__(self, ledger: Ledger, metrics: Metrics, traces: JobTraces | None = None) -> None:
        self._ledger = ledger
        self._metrics = metrics
        self.traces = traces or JobTraces()
        self._held: dict[str, Held] = {}

    def __len__(self) -> int:
        return len(self._held)

    def __iter__(self) -> Iterator[Held]:
        return iter(list(self._held.values()))

    def get(self, job_id: str) -> Held | None:
        """The job, if it is in hand."""
        return self._held.get(job_id)

    @property
    def proving(self) -> bool:
        """Whether a suspect is in hand that has not got past where it was lost, or has and makes way for another."""
        return any(not held.proven or held.makes_way for held in self)

    def overdue(self, seconds: float) -> list[Held]:
        """Those that have been in training for longer, and are not being dropped."""
        return [held for held in self if held.ran_seconds > seconds and not held.dropping]

    def silent(self, seconds: float) -> list[Held]:
        """Those of which nothing was heard for so long."""
        return [held for held in self if held.silent_seconds > seconds]

    def take(self, job: Job) -> Held:
        """Hold a job that was claimed."""
        held = Held(job, job.progress, proven=not job.suspect)
        self._held[job.id] = held
        now = time.time()
        self._metrics.claimed(job, now)
        self.traces.claimed(job, now)
        self._metrics.holds(len(self))
        return held

    def hear(self, held: Held, report: Started | Stepped | Evaluated | Checkpointed) -> None:
        """Take in what the process says of a job."""
        held.hear(report)
        now = time.time()
        match report:
            case Started():
                self._metrics.started(held.job, report.resumed_from_step)
                self.traces.started(held.job, report.resumed_from_step)
            case Stepped():
                rates = {"learning_rate": report.learning_rate, "grad_norm": report.grad_norm}
                self._metrics.stepped(held.job, report.progress, rates, now)
                self.traces.stepped(held.job, report.progress)
            case Checkpointed():
                self._metrics.checkpointed(held.job, report.seconds, now)
            case Evaluated():
                pass

    def let_go(self, held: Held) -> None:
        """Hold it no longer."""
        self._held.pop(held.job.id, None)
        self._metrics.forget(held.job)
        self.traces.let_go(held.job)
        self._metrics.holds(len(self))

    # ---- to the ledger; each returns the jobs that turned out to be ours no longer

    def record(self) -> list[Held]:
        """Write down what is new. What is being dropped says its last word when it is given back."""
        told_of = [held for held in self if held.news and not held.dropping]
        if not told_of:
            return []
        lost = self._ledger.jobs.record([held.note() for held in told_of])
        for held in told_of:
            if held.job.id not in lost:
                held.written()
        self._metrics.fenced(len(lost))
        return self._named(lost)

    def renew(self, *, lease_seconds: float) -> list[Held]:
        """Renew the leases."""
        lost: set[str] = set()
        if self._held:
            lost = self._ledger.jobs.renew(self._jobs(), lease_seconds=lease_seconds)
        self._metrics.lives(time.time())
        self._metrics.fenced(len(lost))
        return self._named(lost)

    def lost(self) -> list[Held]:
        """Look whether they are still ours. A read."""
        return self._named(self._ledger.jobs.lost(self._jobs())) if self._held else []

    def give_back(
        self, given: Sequence[Held], *, reason: str, lost: bool, delay: float = 0.0
    ) -> None:
        """Back to the queue with them, together with what was still to be said."""
        if not given:
            return
        notes = [held.note() for held in given]
        self._ledger.jobs.requeue(notes, reason=reason, lost=lost, delay=delay)
        self._metrics.lost(len(notes) if lost else 0)
        for held in given:
            self.let_go(held)

    def give_all_back(self, *, reason: str, delay: Callable[[int], float]) -> None:
        """All of them were lost. Each waits as long as is due after so many losses in a row, at first not at all."""
        for losses in {held.job.losses for held in self}:
            alike = [held for held in self if held.job.losses == losses]
            waits = delay(losses - 1) if losses else 0.0
            self.give_back(alike, reason=reason, lost=True, delay=waits)

    def _jobs(self) -> list[Job]:
        return [held.job for held in self]

    def _named(self, ids: set[str]) -> list[Held]:
        return [held for held in self if held.job.id in ids]
