from pathlib import Path

import pytest

from adapters.ledger import Ledger
from adapters.records import JobStatus, Phase
from tests.support.fake_process import FakeProcess
from tests.unit.trainer.workshop import finish, make_worker, submit, work_until
from trainer.worker import Worker

STEPS = 9


@pytest.fixture
def process() -> FakeProcess:
    return FakeProcess(steps=STEPS, checkpoint_every=100)


def at_step(ledger: Ledger, job_id: str, step: int) -> bool:
    return ledger.jobs.get(job_id).progress.step >= step


def pause(worker: Worker, ledger: Ledger, job_id: str) -> None:
    ledger.jobs.pause(job_id)
    work_until(worker, lambda: ledger.jobs.get(job_id).phase is Phase.PAUSED)


@pytest.mark.parametrize("step", range(1, STEPS))
def test_a_paused_job_goes_on_where_it_was(
    step: int, worker: Worker, ledger: Ledger, process: FakeProcess, tmp_path: Path
) -> None:
    job_id = submit(ledger, tmp_path)
    work_until(worker, lambda: at_step(ledger, job_id, step))
    pause(worker, ledger, job_id)
    paused = ledger.jobs.get(job_id)
    assert (paused.status, process.training) == (JobStatus.PAUSED, set())
    said = [event.message for event in ledger.jobs.events(job_id)]
    assert f"Training state saved at step {paused.progress.step}" in said
    for _ in range(20):
        worker.turn()
    assert ledger.jobs.get(job_id) == paused

    ledger.jobs.resume(job_id)
    job = finish(worker, ledger, job_id)
    assert (job.status, job.attempt, job.losses) == (JobStatus.SUCCEEDED, 2, 0)
    metrics = [e.data["step"] for e in ledger.jobs.events(job_id) if e.message.startswith("Step")]
    assert metrics == sorted(metrics)
    resumed = [
        e.data for e in ledger.jobs.events(job_id) if e.data and "resumed_from_step" in e.data
    ]
    assert resumed[-1]["resumed_from_step"] == paused.progress.step


def test_a_job_may_be_paused_before_its_first_step(
    worker: Worker, ledger: Ledger, process: FakeProcess, tmp_path: Path
) -> None:
    job_id = submit(ledger, tmp_path)
    work_until(worker, lambda: bool(process.admitted))
    pause(worker, ledger, job_id)
    ledger.jobs.resume(job_id)
    assert finish(worker, ledger, job_id).status is JobStatus.SUCCEEDED


def test_its_neighbours_go_on(
    worker: Worker, ledger: Ledger, process: FakeProcess, tmp_path: Path
) -> None:
    paused, neighbour = submit(ledger, tmp_path), submit(ledger, tmp_path)
    work_until(worker, lambda: len(process.training) == 2)
    pause(worker, ledger, paused)
    assert finish(worker, ledger, neighbour).status is JobStatus.SUCCEEDED
    assert ledger.jobs.get(paused).phase is Phase.PAUSED


def test_one_that_is_resumed_before_anybody_noticed_just_goes_on(
    worker: Worker, ledger: Ledger, process: FakeProcess, tmp_path: Path
) -> None:
    job_id = submit(ledger, tmp_path)
    work_until(worker, lambda: at_step(ledger, job_id, 2))
    ledger.jobs.pause(job_id)
    ledger.jobs.resume(job_id)
    job = finish(worker, ledger, job_id)
    assert (job.status, job.attempt, process.dropped) == (JobStatus.SUCCEEDED, 1, [])


def test_one_that_is_resumed_while_the_process_lets_go_is_taken_up_again(
    worker: Worker, ledger: Ledger, process: FakeProcess, tmp_path: Path
) -> None:
    job_id = submit(ledger, tmp_path)
    work_until(worker, lambda: at_step(ledger, job_id, 2))
    ledger.jobs.pause(job_id)
    work_until(worker, lambda: process.dropped == [job_id])
    ledger.jobs.resume(job_id)
    job = finish(worker, ledger, job_id)
    assert (job.status, job.attempt, job.losses) == (JobStatus.SUCCEEDED, 2, 0)


def test_a_paused_job_that_is_cancelled_ends(
    worker: Worker, ledger: Ledger, process: FakeProcess, tmp_path: Path
) -> None:
    job_id = submit(ledger, tmp_path)
    work_until(worker, lambda: at_step(ledger, job_id, 2))
    ledger.jobs.pause(job_id)
    ledger.jobs.cancel(job_id)
    assert finish(worker, ledger, job_id).status is JobStatus.CANCELLED
    assert process.training == set()


def test_one_that_was_finished_when_it_was_paused_is_published_when_it_is_resumed(
    ledger: Ledger, process: FakeProcess, tmp_path: Path
) -> None:
    worker = make_worker(ledger, process, tmp_path)  # looks once a second: the process is faster
    job_id = submit(ledger, tmp_path)
    work_until(worker, lambda: bool(process.training))
    ledger.jobs.pause(job_id)
    work_until(worker, lambda: ledger.jobs.get(job_id).phase is Phase.PAUSED)
    assert ledger.registry.list() == []
    ledger.jobs.resume(job_id)
    assert finish(worker, ledger, job_id).fine_tuned_model == "support-bot@1"


@pytest.mark.parametrize("who", ["process", "trainer"])
@pytest.mark.parametrize("told", [False, True])
def test_whoever_dies_while_a_job_pauses_it_stays_paused(
    who: str, told: bool, worker: Worker, ledger: Ledger, process: FakeProcess, tmp_path: Path
) -> None:
    job_id = submit(ledger, tmp_path)
    work_until(worker, lambda: at_step(ledger, job_id, 2))
    ledger.jobs.pause(job_id)
    if told:
        work_until(worker, lambda: process.dropped == [job_id])
    process.kill()
    if who == "trainer":
        process = FakeProcess(steps=STEPS)
        worker = make_worker(ledger, process, tmp_path)
        worker.run(lambda: ledger.jobs.get(job_id).phase is Phase.PAUSED)
        worker = make_worker(ledger, process, tmp_path)
    for _ in range(30):
        worker.turn()
    job = ledger.jobs.get(job_id)
    assert (job.status, job.phase, job.attempt) == (JobStatus.PAUSED, Phase.PAUSED, 1)
    ledger.jobs.resume(job_id)
    assert finish(worker, ledger, job_id).status is JobStatus.SUCCEEDED


def test_the_work_of_a_paused_job_is_kept(
    worker: Worker, ledger: Ledger, process: FakeProcess, tmp_path: Path
) -> None:
    job_id = submit(ledger, tmp_path)
    work_until(worker, lambda: at_step(ledger, job_id, 2))
    folder = tmp_path / "work" / job_id
    folder.mkdir(parents=True)
    pause(worker, ledger, job_id)
    worker._leftovers.purge(worker._hands)
    assert folder.exists()
