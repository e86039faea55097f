from dataclasses import replace
from pathlib import Path

import pytest

from adapters.errors import FileInUse, JobNotFound, JobNotPausable, JobNotResumable
from adapters.ledger import Ledger
from adapters.records import (
    EventKind,
    JobError,
    JobStatus,
    NewEvent,
    Phase,
)
from tests.conformance.test_ledger import claim, claimed, note, place, submit
from tests.support.clock import Clock
from tests.support.samples import new_job, render


def state(ledger: Ledger, job_id: str) -> tuple[JobStatus, Phase]:
    job = ledger.jobs.get(job_id)
    return job.status, job.phase


STOPPING = (JobStatus.PAUSED, Phase.STOPPING)
PAUSED = (JobStatus.PAUSED, Phase.PAUSED)


def test_a_waiting_job_pauses_at_once_and_keeps_its_place(ledger: Ledger, clock: Clock) -> None:
    first = submit(ledger)
    clock.tick(1)
    second = submit(ledger)
    created_at = ledger.jobs.get(first).created_at
    ledger.jobs.pause(first)
    assert state(ledger, first) == PAUSED
    assert place(ledger, first) is None
    assert place(ledger, second) == 1
    assert ledger.jobs.resume(first).created_at == created_at
    assert state(ledger, first) == (JobStatus.QUEUED, Phase.QUEUED)
    assert [claim(ledger).id, claim(ledger).id] == [first, second]


def test_nobody_claims_a_paused_job(ledger: Ledger, clock: Clock) -> None:
    running, waiting = claimed(ledger), submit(ledger)
    ledger.jobs.pause(waiting)
    ledger.jobs.pause(running.id)
    clock.tick(100)
    assert claim(ledger) is None


def test_a_running_job_is_stopping_until_its_worker_has_let_go(ledger: Ledger) -> None:
    job = claimed(ledger)
    assert (ledger.jobs.pause(job.id).status, ledger.jobs.get(job.id).phase) == STOPPING
    assert ledger.jobs.renew([job], lease_seconds=30) == {job.id}
    assert ledger.jobs.lost([job]) == {job.id}
    ledger.jobs.requeue([note(job, 7, checkpoint=7)], reason="it was dropped", lost=False)
    assert state(ledger, job.id) == PAUSED
    assert (ledger.jobs.get(job.id).progress.step, ledger.jobs.get(job.id).worker) == (7, None)
    assert ledger.jobs.events(job.id)[-1].message == "Fine-tuning job paused"


def test_the_last_word_of_a_job_that_pauses_is_kept(ledger: Ledger) -> None:
    job = claimed(ledger)
    ledger.jobs.pause(job.id)
    word = NewEvent(kind=EventKind.METRICS, message="Step 7")
    last = replace(note(job, 7), events=(word,))
    ledger.jobs.requeue([last], reason="it was dropped", lost=False)
    assert ledger.jobs.events(job.id)[-1].message == "Step 7"


def test_a_resumed_job_is_the_next_attempt(ledger: Ledger) -> None:
    job = claimed(ledger)
    ledger.jobs.pause(job.id)
    ledger.jobs.requeue([note(job)], reason="it was dropped", lost=False)
    ledger.jobs.resume(job.id)
    again = claim(ledger)
    assert (again.id, again.attempt, again.losses) == (job.id, 2, 0)
    assert ledger.jobs.record([note(job, 9)]) == {job.id}


def test_a_job_that_is_resumed_while_it_stops_goes_on_with_its_worker(ledger: Ledger) -> None:
    job = claimed(ledger)
    ledger.jobs.pause(job.id)
    resumed = ledger.jobs.resume(job.id)
    assert (resumed.status, resumed.attempt, resumed.worker) == (JobStatus.RUNNING, 1, job.worker)
    assert ledger.jobs.lost([job]) == set()
    assert ledger.jobs.record([note(job, 3)]) == set()
    # Where the process has let go in the meantime, the worker gives it back, and it waits for nothing.
    ledger.jobs.requeue([note(job, 3)], reason="it was resumed", lost=False)
    assert claim(ledger).id == job.id


def test_a_job_that_is_resumed_after_its_worker_went_silent_is_claimed_by_another(
    ledger: Ledger, clock: Clock
) -> None:
    job = claimed(ledger)
    ledger.jobs.pause(job.id)
    clock.tick(31)
    assert claim(ledger, "w2") is None
    ledger.jobs.resume(job.id)
    assert (claim(ledger, "w2").id, ledger.jobs.lost([job])) == (job.id, {job.id})


def test_pausing_twice_is_no_error_and_says_so_once(ledger: Ledger) -> None:
    for job_id in (claimed(ledger).id, submit(ledger)):
        job = ledger.jobs.pause(job_id)
        assert ledger.jobs.pause(job_id) == job
        said = [event.message for event in ledger.jobs.events(job_id)]
        assert said.count("Fine-tuning job paused") == 1
        ledger.jobs.resume(job_id)
        assert ledger.jobs.events(job_id)[-1].message == "Fine-tuning job resumed"


@pytest.mark.parametrize("end", ["failed", "been cancelled"])
def test_what_has_ended_can_neither_be_paused_nor_resumed(ledger: Ledger, end: str) -> None:
    job = claimed(ledger)
    if end == "failed":
        ledger.jobs.fail(job.id, job.attempt, JobError(code="loss_diverged", message="NaN"))
    else:
        ledger.jobs.cancel(job.id)
    with pytest.raises(JobNotPausable, match=f"has already {end}"):
        ledger.jobs.pause(job.id)
    with pytest.raises(JobNotResumable, match="not paused"):
        ledger.jobs.resume(job.id)


def test_what_does_not_exist_or_is_not_paused_is_not_resumed(ledger: Ledger) -> None:
    with pytest.raises(JobNotResumable, match="not paused: it is queued"):
        ledger.jobs.resume(submit(ledger))
    for act in (ledger.jobs.pause, ledger.jobs.resume):
        with pytest.raises(JobNotFound):
            act("ftjob-none")


@pytest.mark.parametrize("let_go", [False, True])
def test_a_paused_job_can_be_cancelled(ledger: Ledger, let_go: bool) -> None:
    job = claimed(ledger)
    ledger.jobs.pause(job.id)
    if let_go:
        ledger.jobs.requeue([note(job)], reason="it was dropped", lost=False)
    ledger.jobs.cancel(job.id)
    ended = (JobStatus.CANCELLED, Phase.ENDED)
    assert state(ledger, job.id) == (ended if let_go else (JobStatus.CANCELLED, Phase.STOPPING))
    ledger.jobs.requeue([note(job)], reason="it was dropped", lost=False)
    assert state(ledger, job.id) == ended


def test_a_worker_that_was_killed_while_jobs_stopped_has_let_go_of_them(ledger: Ledger) -> None:
    paused, cancelled, running = claimed(ledger), claimed(ledger), claimed(ledger)
    ledger.jobs.pause(paused.id)
    ledger.jobs.cancel(cancelled.id)
    assert ledger.jobs.take_back("w1") == 1
    assert state(ledger, paused.id) == PAUSED
    assert state(ledger, cancelled.id) == (JobStatus.CANCELLED, Phase.ENDED)
    assert claim(ledger).id == running.id
    assert claim(ledger) is None


def test_a_file_that_a_paused_job_needs_is_in_use(ledger: Ledger, tmp_path: Path) -> None:
    data = tmp_path / "data.jsonl"
    data.write_text("{}")
    file = ledger.files.add(data, filename="data.jsonl", purpose="fine-tune")
    new = replace(new_job(), training_file=file.id)
    ledger.jobs.submit(new, render=render)
    ledger.jobs.pause(new.id)
    with pytest.raises(FileInUse):
        ledger.files.delete(file.id)
