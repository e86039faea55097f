"""Whatever happens in whatever order: every innocent job gets its one version, and the poisonous one is found out."""

import tempfile
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from adapters.errors import JobNotCancellable, JobNotPausable, JobNotResumable
from adapters.ledger import Ledger, open_ledger
from adapters.records import JobStatus, Phase
from adapters.settings import LedgerSettings
from tests.support.fake_process import FakeProcess
from tests.unit.trainer.workshop import make_worker, submit

#: Kills from outside say nothing about a job, and yet they count against whoever is alone then.
KILLS = 3
EVENTS = st.one_of(
    st.just(("submit", 0)),
    st.tuples(st.sampled_from(["cancel", "pause", "resume"]), st.integers(0, 9)),
    st.tuples(st.just("kill"), st.sampled_from(["process", "trainer"])),
    st.tuples(st.just("work"), st.integers(1, 12)),
)


class History:
    """A trainer, the jobs that were submitted to it, and what befalls them."""

    def __init__(self, ledger: Ledger, home: Path, poison_at: int) -> None:
        self.ledger, self.home = ledger, home
        self.checkpoints: dict[str, int] = {}
        self.ids: list[str] = []
        self.cancelled: set[str] = set()
        self.kills = 0
        self.poison_at = poison_at
        self.bad = self.submit()
        self.boot()

    def boot(self) -> None:
        self.process = FakeProcess(steps=6, checkpoint_every=4, checkpoints=self.checkpoints)
        self.process.poison = {self.bad: self.poison_at}
        self.ledger.jobs.take_back("w")
        self.worker = make_worker(
            self.ledger, self.process, self.home, max_losses=3 + KILLS, max_jobs=4
        )

    def submit(self) -> str:
        self.ids.append(submit(self.ledger, self.home, f"bot-{len(self.ids)}"))
        return self.ids[-1]

    def befall(self, event: str, what: int | str) -> None:
        match event, what:
            case "submit", _:
                self.submit()
            case "cancel", int(number):
                self.cancel(self.ids[number % len(self.ids)])
            case "pause" | "resume", int(number):
                with suppress(JobNotPausable, JobNotResumable):
                    getattr(self.ledger.jobs, event)(self.ids[number % len(self.ids)])
            case "kill", who if self.kills < KILLS:
                self.kills += 1
                self.process.kill() if who == "process" else self.boot()
            case "work", int(turns):
                for _ in range(turns):
                    self.turn()

    def cancel(self, job_id: str) -> None:
        try:
            self.ledger.jobs.cancel(job_id)
        except JobNotCancellable:
            return
        self.cancelled.add(job_id)

    def turn(self) -> None:
        self.worker.turn()
        for order, company in zip(self.process.admitted, self.process.company, strict=True):
            assert order.prove_past is None or not company
        inside = self.process.training
        assert len(inside) <= 4
        assert not any(self.ledger.jobs.get(job_id).phase is Phase.PAUSED for job_id in inside)
        if len(inside) > 1:
            assert not any(self.ledger.jobs.get(job_id).suspect for job_id in inside)

    def settle(self) -> None:
        for job_id in self.ids:
            with suppress(JobNotResumable):
                self.ledger.jobs.resume(job_id)
        for _ in range(100 * len(self.ids)):
            if all(self.ledger.jobs.get(job_id).status.terminal for job_id in self.ids):
                return
            self.turn()
        raise AssertionError("it does not come to an end")


@pytest.mark.usefixtures("prompt")
@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(poison_at=st.integers(1, 6), events=st.lists(EVENTS, max_size=16))
def test_innocent_jobs_succeed_once_and_the_poisonous_one_fails(
    poison_at: int, events: list[tuple[str, int | str]]
) -> None:
    with tempfile.TemporaryDirectory() as home:
        ledger = open_ledger(LedgerSettings(home=Path(home)))
        history = History(ledger, Path(home), poison_at)
        for event in events:
            history.befall(*event)
        history.settle()
        for job_id in set(history.ids) - history.cancelled:
            job = ledger.jobs.get(job_id)
            if job_id == history.bad:
                assert (job.status, job.error.code) == (JobStatus.FAILED, "worker_lost")
            else:
                assert job.status is JobStatus.SUCCEEDED
        versions = [v.job_id for adapter in ledger.registry.list() for v in adapter.versions]
        assert len(versions) == len(set(versions)) == ledger.jobs.count()["succeeded"]
        ledger.close()
