"""Who brings the process down is found out alone; nobody fails for their company."""

from pathlib import Path

import pytest

from adapters.ledger import Ledger
from adapters.records import (
    Job,
    JobNote,
    JobStatus,
    Phase,
)
from tests.support.fake_process import FakeProcess
from tests.unit.trainer.workshop import finish, make_worker, submit, work_until
from trainer.placement import Placement
from trainer.worker import Worker

pytestmark = pytest.mark.usefixtures("prompt")


@pytest.fixture
def process() -> FakeProcess:
    return FakeProcess(steps=6, checkpoint_every=4)


def test_a_process_that_dies_with_several_jobs_gives_them_all_back_and_they_resume_together(
    worker: Worker, ledger: Ledger, process: FakeProcess, tmp_path: Path
) -> None:
    ids = [submit(ledger, tmp_path) for _ in range(4)]
    work_until(worker, lambda: len(process.training) == 4)
    process.kill()
    work_until(worker, lambda: len(process.training) == 4 and process.starts == 2)
    assert [order.prove_past for order in process.admitted] == [None] * 8
    finish(worker, ledger, *ids)
    for job in map(ledger.jobs.get, ids):
        assert (job.status, job.attempt) == (JobStatus.SUCCEEDED, 2)
    assert len(ledger.registry.get("support-bot").versions) == 4


def test_a_job_that_always_kills_its_process_fails_alone(
    worker: Worker, ledger: Ledger, process: FakeProcess, tmp_path: Path
) -> None:
    ids = [submit(ledger, tmp_path, f"bot-{n}") for n in range(4)]
    bad = ids[2]
    process.poison[bad] = 3
    finish(worker, ledger, *ids)
    job = ledger.jobs.get(bad)
    assert (job.status, job.error.code) == (JobStatus.FAILED, "worker_lost")
    assert process.deaths[-1] == {bad}, "the last death is its own"
    for innocent in set(ids) - {bad}:
        assert ledger.jobs.get(innocent).status is JobStatus.SUCCEEDED
    assert len(ledger.registry.list()) == 3


def test_a_job_that_dies_at_its_very_first_step_is_found_too(
    worker: Worker, ledger: Ledger, process: FakeProcess, tmp_path: Path
) -> None:
    good, bad = submit(ledger, tmp_path), submit(ledger, tmp_path)
    process.poison[bad] = 1
    finish(worker, ledger, good, bad)
    assert ledger.jobs.get(bad).error.code == "worker_lost"
    assert ledger.jobs.get(good).status is JobStatus.SUCCEEDED


def test_a_job_that_dies_behind_a_checkpoint_is_not_cleared_by_it(
    worker: Worker, ledger: Ledger, process: FakeProcess, tmp_path: Path
) -> None:
    bad = submit(ledger, tmp_path)
    process.poison[bad] = 6  # every attempt resumes from the checkpoint at 4, and dies at 6
    finish(worker, ledger, bad)
    assert ledger.jobs.get(bad).error.code == "worker_lost"
    assert process.deaths == [{bad}] * 3


def test_two_deaths_make_suspects_who_prove_themselves_alone_one_after_the_other(
    worker: Worker, ledger: Ledger, process: FakeProcess, tmp_path: Path
) -> None:
    ids = [submit(ledger, tmp_path) for _ in range(3)]
    for _ in range(2):
        work_until(worker, lambda: len(process.training) == 3)
        process.kill()
        worker.turn()
    assert all(ledger.jobs.get(job_id).suspect for job_id in ids)
    before = len(process.admitted)
    together = 0

    def watch() -> bool:
        nonlocal together
        suspects = [job_id for job_id in process.training if ledger.jobs.get(job_id).suspect]
        assert not suspects or len(process.training) == 1
        together = max(together, len(process.training))
        return all(ledger.jobs.get(job_id).phase is Phase.ENDED for job_id in ids)

    work_until(worker, watch)
    proofs = process.admitted[before : before + 3]
    assert [order.job_id for order in proofs] == ids
    assert all(order.prove_past is not None for order in proofs)
    assert process.dropped == ids[:2], "whoever has proved itself makes way for the next"
    assert together == 3, "and all go on together afterwards"
    assert [ledger.jobs.get(job_id).status.value for job_id in ids] == ["succeeded"] * 3
    assert len(ledger.registry.get("support-bot").versions) == 3


def test_nobody_joins_a_suspect_before_it_has_proved_itself(
    worker: Worker, ledger: Ledger, process: FakeProcess, tmp_path: Path
) -> None:
    suspect = submit(ledger, tmp_path)
    for _ in range(2):
        work_until(worker, lambda: bool(process.training))
        process.kill()
        worker.turn()
    newcomer = submit(ledger, tmp_path)
    work_until(worker, lambda: newcomer in process.training)
    assert ledger.jobs.get(suspect).losses == 0
    assert process.admitted[-2].prove_past == 0
    assert process.training == {suspect, newcomer}, "a suspect that proved itself stays"


def test_a_suspect_throws_nobody_out_and_nobody_overtakes_it(
    worker: Worker, ledger: Ledger, process: FakeProcess, tmp_path: Path
) -> None:
    suspect = submit(ledger, tmp_path)
    for _ in range(2):
        work_until(worker, lambda: bool(process.training))
        process.kill()
        worker.turn()
    # It waits a while, as after a full disk; another job comes in meanwhile.
    claimed = ledger.jobs.claim(worker="x", base_model="tiny-base", lease_seconds=9, max_losses=9)
    running = submit(ledger, tmp_path)
    work_until(worker, lambda: process.training == {running})
    ledger.jobs.requeue([note(claimed)], reason="back", lost=False)
    late = submit(ledger, tmp_path)
    process.admitted.clear()
    process.company.clear()
    finish(worker, ledger, running, suspect, late)
    assert [order.job_id for order in process.admitted] == [suspect, late]
    assert process.company[0] == set()
    assert process.dropped == []
    assert ledger.jobs.get(running).attempt == 1


def test_a_suspect_that_is_cancelled_lets_the_others_in(
    worker: Worker, ledger: Ledger, process: FakeProcess, tmp_path: Path
) -> None:
    suspect = submit(ledger, tmp_path)
    for _ in range(2):
        work_until(worker, lambda: bool(process.training))
        process.kill()
        worker.turn()
    work_until(worker, lambda: process.training == {suspect})
    other = submit(ledger, tmp_path)
    ledger.jobs.cancel(suspect)
    finish(worker, ledger, suspect, other)
    assert ledger.jobs.get(suspect).status is JobStatus.CANCELLED
    assert ledger.jobs.get(other).status is JobStatus.SUCCEEDED


def test_a_suspect_goes_to_an_empty_worker_while_its_sibling_goes_on_taking_jobs(
    ledger: Ledger, tmp_path: Path
) -> None:
    placement = Placement()
    one, two = FakeProcess(steps=40), FakeProcess(steps=6, checkpoint_every=4)
    first, second = (
        make_worker(ledger, process, tmp_path, worker_id=name, placement=placement)
        for name, process in (("one", one), ("two", two))
    )
    suspect = submit(ledger, tmp_path)
    for _ in range(2):
        work_until(second, lambda: bool(two.training))
        two.kill()
        second.turn()
    work_until(second, lambda: two.training == {suspect})
    others = [submit(ledger, tmp_path) for _ in range(2)]
    work_until(first, lambda: one.training == set(others))
    assert two.training == {suspect}


def note(job: Job) -> JobNote:
    return JobNote(job=job, phase=job.phase, progress=job.progress)
