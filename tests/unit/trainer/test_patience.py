"""What takes too long, what says nothing any more, and how long what was lost waits."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from adapters.ledger import Ledger
from adapters.records import JobStatus, Phase
from tests.support.fake_process import FakeProcess
from tests.support.samples import BASE
from tests.unit.trainer.workshop import finish, make_worker, submit, work_until
from trainer import worker as worker_module
from trainer.child import AnyReport

pytestmark = pytest.mark.usefixtures("prompt")


@pytest.fixture(autouse=True)
def watchful(monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker watches in every turn."""
    monkeypatch.setattr(worker_module, "_WATCH_S", 0.0)


class Mute(FakeProcess):
    """Says nothing of these jobs, and forgets them when it is told to."""

    def __init__(self, *, everything: bool = False) -> None:
        super().__init__(steps=300)
        self.mute: set[str] = set()
        self.everything = everything

    def receive(self, timeout: float) -> Sequence[AnyReport]:
        said = super().receive(timeout)
        if self.everything and self.admitted and self.starts == 1:
            return []
        return [
            one
            for one in said
            if getattr(one, "job_id", None) not in self.mute or not hasattr(one, "attempt")
        ]


def test_a_job_that_is_in_training_for_too_long_fails_and_its_process_lets_it_go(
    ledger: Ledger, tmp_path: Path
) -> None:
    process = FakeProcess(steps=10_000)
    worker = make_worker(ledger, process, tmp_path, max_runtime_seconds=0.05)
    job = finish(worker, ledger, submit(ledger, tmp_path))
    assert (job.status, job.error.code) == (JobStatus.FAILED, "timeout")
    work_until(worker, lambda: process.dropped == [job.id])
    assert ledger.registry.list() == []
    worker.turn()
    assert not (tmp_path / "work" / job.id).exists()


def test_what_a_job_has_run_in_earlier_attempts_counts(ledger: Ledger, tmp_path: Path) -> None:
    process = FakeProcess(steps=10_000)
    first = make_worker(ledger, process, tmp_path)
    job_id = submit(ledger, tmp_path)
    work_until(first, lambda: bool(process.training))
    ledger.jobs.pause(job_id)
    work_until(first, lambda: ledger.jobs.get(job_id).phase is Phase.PAUSED)
    ran = ledger.jobs.get(job_id).ran_seconds
    assert ran > 0
    ledger.jobs.resume(job_id)
    second = make_worker(ledger, process, tmp_path, max_runtime_seconds=ran)
    assert finish(second, ledger, job_id).error.code == "timeout"


def test_a_process_that_says_nothing_of_any_job_is_killed_and_they_go_on(
    ledger: Ledger, tmp_path: Path
) -> None:
    process = Mute(everything=True)
    worker = make_worker(ledger, process, tmp_path, stall_seconds=0.2)
    job_id = submit(ledger, tmp_path)
    work_until(worker, lambda: process.starts == 2, turns=1_000_000)
    said = [event.message for event in ledger.jobs.events(job_id)]
    assert any("it said nothing for" in message for message in said)
    assert ledger.jobs.get(job_id).losses == 1


def test_a_job_that_nothing_is_heard_of_goes_back_and_its_neighbour_stays(
    ledger: Ledger, tmp_path: Path
) -> None:
    process = Mute()
    stuck = submit(ledger, tmp_path)
    process.mute = {stuck}
    worker = make_worker(ledger, process, tmp_path, stall_seconds=0.3, retry_seconds=(600.0,))
    other = submit(ledger, tmp_path)
    work_until(worker, lambda: ledger.jobs.get(stuck).losses == 1, turns=1_000_000)
    assert process.dropped == [stuck]
    assert (process.starts, ledger.jobs.get(other).losses) == (1, 0)


def test_a_process_that_dies_is_resumed_from_at_once_and_the_next_time_later(
    ledger: Ledger, process: FakeProcess, tmp_path: Path
) -> None:
    worker = make_worker(ledger, process, tmp_path, retry_seconds=(600.0,))
    job_id = submit(ledger, tmp_path)
    for attempt in (1, 2):
        work_until(worker, lambda: ledger.jobs.get(job_id).attempt == attempt)  # noqa: B023
        process.kill()
        worker.turn()
    assert ledger.jobs.get(job_id).losses == 2
    assert not ledger.jobs.waits(base_model=BASE, alone=True, max_losses=9)


def test_a_worker_says_how_many_jobs_it_takes_while_it_is_there(
    ledger: Ledger, process: FakeProcess, tmp_path: Path
) -> None:
    worker = make_worker(ledger, process, tmp_path, max_jobs=7)
    assert ledger.queue.loads() == []
    slots: list[int | None] = []

    def seen() -> bool:
        slots.extend(load.slots for load in ledger.queue.loads())
        return bool(slots)

    worker.run(seen)
    assert slots == [7]
    assert ledger.queue.loads() == []
