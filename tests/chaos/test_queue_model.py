"""R24: the queue beside a model of it. Whatever happens in whatever order, both say the same after each step."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings as hypothesis, strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from adapters.errors import (
    AdapterNotFound,
    JobNotCancellable,
    JobNotPausable,
    JobNotResumable,
    LeaseLost,
)
from adapters.ledger import Ledger, open_ledger
from adapters.records import Job, JobError, JobNote, JobStatus, Phase, Progress
from adapters.settings import LedgerSettings
from tests.chaos.sizes import Chaos
from tests.support.clock import Clock
from tests.support.samples import adapter_directory, manifest, new_job, render

LEASE = 30.0
NEVER = 10**6
WORKERS = ("w1", "w2")
_numbers = count()


@dataclass
class Known:
    """What the model knows of a job."""

    status: str = "queued"
    attempt: int = 0
    worker: str | None = None
    lease_until: float = 0.0
    #: Paused or cancelled while a worker had it.
    stopping: bool = False

    @property
    def running(self) -> bool:
        return self.status == "running"


class Queue(RuleBasedStateMachine):
    """Each example has a base model of its own: a queue of its own, in a ledger that all share."""

    ledger: Ledger
    clock: Clock
    home: Path

    @initialize()
    def begin(self) -> None:
        self.base = f"base-{next(_numbers)}"
        self.jobs: dict[str, Known] = {}
        #: Every claim that was ever made: also those that are somebody else's by now go on writing.
        self.claims: list[Job] = []

    def _name(self, number: int) -> str:
        return f"{self.base}-{number}"

    def _pick(self, number: int) -> tuple[str, Known]:
        return list(self.jobs.items())[number % len(self.jobs)]

    def _claim(self, number: int) -> tuple[Job, bool]:
        """A claim, and whether it still holds its job."""
        job = self.claims[number % len(self.claims)]
        known = self.jobs[job.id]
        return job, known.running and known.attempt == job.attempt

    def _note(self, job: Job) -> JobNote:
        return JobNote(job=job, phase=Phase.TRAINING, progress=Progress(step=job.attempt))

    # ---- those who ask

    @precondition(lambda self: len(self.jobs) < 6)
    @rule()
    def submit(self) -> None:
        name = self._name(len(self.jobs))
        new = replace(new_job(name, self.base), training_file="file-1")
        self.jobs[self.ledger.jobs.submit(new, render=render).body] = Known()

    @precondition(lambda self: self.jobs)
    @rule(number=st.integers(0, 9))
    def cancel(self, number: int) -> None:
        job_id, known = self._pick(number)
        if known.status in {"succeeded", "failed"}:
            with pytest.raises(JobNotCancellable):
                self.ledger.jobs.cancel(job_id)
            return
        self.ledger.jobs.cancel(job_id)
        known.stopping = known.running or known.stopping
        known.status = "cancelled"

    @precondition(lambda self: self.jobs)
    @rule(number=st.integers(0, 9))
    def pause(self, number: int) -> None:
        job_id, known = self._pick(number)
        if known.status in {"succeeded", "failed", "cancelled"}:
            with pytest.raises(JobNotPausable):
                self.ledger.jobs.pause(job_id)
            return
        self.ledger.jobs.pause(job_id)
        known.stopping = known.running or known.stopping
        known.status = "paused"

    @precondition(lambda self: self.jobs)
    @rule(number=st.integers(0, 9))
    def resume(self, number: int) -> None:
        job_id, known = self._pick(number)
        if known.status != "paused":
            with pytest.raises(JobNotResumable):
                self.ledger.jobs.resume(job_id)
            return
        self.ledger.jobs.resume(job_id)
        known.status = "running" if known.stopping else "queued"
        known.stopping = False

    # ---- workers

    @rule(worker=st.sampled_from(WORKERS))
    def claim(self, worker: str) -> None:
        job = self.ledger.jobs.claim(
            worker=worker, base_model=self.base, lease_seconds=LEASE, max_losses=NEVER
        )
        now = self.clock()
        free = {
            job_id
            for job_id, known in self.jobs.items()
            if known.status == "queued" or (known.running and known.lease_until < now)
        }
        if job is None:
            assert not free
            return
        assert job.id in free
        known = self.jobs[job.id]
        known.status, known.worker = "running", worker
        known.attempt += 1
        known.lease_until = now + LEASE
        assert job.attempt == known.attempt
        self.claims.append(job)

    @precondition(lambda self: self.claims)
    @rule(number=st.integers(0, 30))
    def heartbeat(self, number: int) -> None:
        job, holds = self._claim(number)
        lost = self.ledger.jobs.renew([job], lease_seconds=LEASE)
        assert lost == (set() if holds else {job.id})
        if holds:
            self.jobs[job.id].lease_until = self.clock() + LEASE

    @precondition(lambda self: self.claims)
    @rule(number=st.integers(0, 30))
    def record(self, number: int) -> None:
        job, holds = self._claim(number)
        assert self.ledger.jobs.record([self._note(job)]) == (set() if holds else {job.id})

    @precondition(lambda self: self.claims)
    @rule(number=st.integers(0, 30), lost=st.booleans())
    def give_back(self, number: int, lost: bool) -> None:
        job, holds = self._claim(number)
        self.ledger.jobs.requeue([self._note(job)], reason="it died", lost=lost)
        known = self.jobs[job.id]
        if holds:
            known.status, known.worker = "queued", None
        elif known.attempt == job.attempt:
            known.stopping = False

    @precondition(lambda self: self.claims)
    @rule(number=st.integers(0, 30))
    def fail(self, number: int) -> None:
        job, holds = self._claim(number)
        error = JobError(code="x", message="y")
        if not holds:
            with pytest.raises(LeaseLost):
                self.ledger.jobs.fail(job.id, job.attempt, error)
            return
        self.ledger.jobs.fail(job.id, job.attempt, error)
        self.jobs[job.id].status = "failed"

    @precondition(lambda self: self.claims)
    @rule(number=st.integers(0, 30))
    def settle(self, number: int) -> None:
        job, holds = self._claim(number)
        made = self.home / "made" / f"{job.id}-{next(_numbers)}"
        source = adapter_directory(made, content=job.id.encode())
        if not holds:
            with pytest.raises(LeaseLost):
                self.ledger.registry.publish(job, source, manifest(job), promote=True)
            return
        self.ledger.registry.publish(job, source, manifest(job), promote=True)
        self.jobs[job.id].status = "succeeded"

    # ---- what befalls them

    @rule(seconds=st.sampled_from([1.0, LEASE / 2, LEASE + 1]))
    def wait(self, seconds: float) -> None:
        self.clock.tick(seconds)

    @rule(worker=st.sampled_from(WORKERS))
    def crash(self, worker: str) -> None:
        """The worker is killed, and back under its name at once."""
        self.ledger.jobs.take_back(worker)
        for known in self.jobs.values():
            if known.worker == worker and known.running:
                known.status, known.worker = "queued", None
            elif known.worker == worker and known.stopping:
                known.stopping = False

    # ---- what is always true

    @invariant()
    def both_say_the_same(self) -> None:
        for job_id, known in getattr(self, "jobs", {}).items():
            job = self.ledger.jobs.get(job_id)
            assert (job.status.value, job.attempt) == (known.status, known.attempt)
            if known.running:
                assert (job.worker, job.lease_expires_at) == (known.worker, known.lease_until)
            assert (job.status is JobStatus.SUCCEEDED) == (job.fine_tuned_model is not None)

    def teardown(self) -> None:
        jobs = getattr(self, "jobs", {})
        made = []
        for number in range(len(jobs)):  # not by a list of all, which is longer with each run
            with suppress(AdapterNotFound):
                made += [
                    one.job_id for one in self.ledger.registry.get(self._name(number)).versions
                ]
        assert sorted(made) == sorted(
            job_id for job_id, known in jobs.items() if known.status == "succeeded"
        )
        for job_id in jobs:
            told = self.ledger.jobs.events(job_id)
            assert [event.seq for event in told] == list(range(1, len(told) + 1))


@pytest.fixture(params=["sqlite", "postgres"])
def ledger(
    tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[tuple[str, Ledger, Clock, Path]]:
    url = "" if request.param == "sqlite" else request.getfixturevalue("database_url")
    clock = Clock()
    ledger = open_ledger(LedgerSettings(home=tmp_path, database_url=url), clock=clock)
    yield request.param, ledger, clock, tmp_path
    ledger.close()


def test_the_queue_is_what_its_model_says(
    chaos: Chaos, ledger: tuple[str, Ledger, Clock, Path]
) -> None:
    database, opened, clock, home = ledger
    runs, steps = chaos.of_size(ci=12, release=10_000), 30

    here = type("Here", (Queue,), {"ledger": opened, "clock": clock, "home": home})
    with chaos.experiment(
        f"R24 {database}", f"the queue beside a model of it, {database}"
    ) as found:
        run_state_machine_as_test(
            here,
            settings=hypothesis(
                max_examples=runs,
                stateful_step_count=steps,
                deadline=None,
                suppress_health_check=list(HealthCheck),
            ),
        )
        found.trials, found.unit = runs, f"runs of {steps} steps"
        found.result = "0 counterexamples"
