from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from adapters.ledger import Ledger, open_ledger
from adapters.records import Job, JobStatus, Phase
from adapters.settings import LedgerSettings
from tests.support.fake_process import FakeProcess
from tests.support.samples import BASE, new_job, render
from trainer import worker as worker_module
from trainer.messages import Failed
from trainer.metrics import Metrics
from trainer.settings import TrainerSettings
from trainer.worker import Worker


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    ledger = open_ledger(LedgerSettings(home=tmp_path))
    yield ledger
    ledger.close()


@pytest.fixture
def process() -> FakeProcess:
    return FakeProcess()


@pytest.fixture
def worker(
    ledger: Ledger, process: FakeProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Worker:
    for duty in ("_RECORD_S", "_LOOK_S", "_RETRY_S"):
        monkeypatch.setattr(worker_module, duty, 0.0)
    return Worker(
        ledger=ledger,
        process=process,
        settings=TrainerSettings(poll_seconds=0.001, max_losses=3),
        base_model=BASE,
        worker_id="w",
        work_dir=tmp_path / "work",
        metrics=Metrics(),
    )


def submit(ledger: Ledger, tmp_path: Path, **spec: object) -> str:
    data = tmp_path / "data.jsonl"
    data.write_text("{}")
    file = ledger.files.add(data, filename="data.jsonl", purpose="fine-tune")
    new = new_job()
    job = replace(new, training_file=file.id, spec=replace(new.spec, **spec))
    ledger.jobs.submit(job, render=render)
    return job.id


def work_until(worker: Worker, done: Callable[[], bool]) -> None:
    for _ in range(500):
        if done():
            return
        worker.turn()
    raise AssertionError("it never came to that")


def ended(ledger: Ledger, job_id: str) -> Callable[[], bool]:
    return lambda: ledger.jobs.get(job_id).phase is Phase.ENDED


def finish(worker: Worker, ledger: Ledger, job_id: str) -> Job:
    work_until(worker, ended(ledger, job_id))
    return ledger.jobs.get(job_id)


def test_a_job_is_trained_published_and_settled(
    worker: Worker, ledger: Ledger, tmp_path: Path
) -> None:
    job = finish(worker, ledger, submit(ledger, tmp_path))
    assert (job.status, job.fine_tuned_model) == (JobStatus.SUCCEEDED, "support-bot@1")
    live = ledger.registry.get("support-bot").live
    assert (ledger.registry.directory(live) / "graft.json").exists()
    assert not (tmp_path / "work" / job.id).exists()
    said = [event.message for event in ledger.jobs.events(job.id)]
    assert said[:3] == [
        f"Created fine-tuning job: {job.id}",
        "Fine-tuning job started",
        "Training begins: 9 rows to train on, 1 held out",
    ]
    assert "one row is odd" in said
    assert "Checkpoint created at step 2" in said
    assert said[-1] == "The job has successfully completed"


def test_jobs_follow_each_other_without_a_new_process(
    worker: Worker, ledger: Ledger, process: FakeProcess, tmp_path: Path
) -> None:
    ids = [submit(ledger, tmp_path) for _ in range(3)]
    for job_id in ids:
        finish(worker, ledger, job_id)
    assert process.starts == 1
    assert [order.job_id for order in process.admitted] == ids


@pytest.mark.parametrize("reports", range(1, 8))
def test_a_process_that_dies_at_any_point_costs_nothing_but_time(
    reports: int, worker: Worker, ledger: Ledger, process: FakeProcess, tmp_path: Path
) -> None:
    job_id = submit(ledger, tmp_path)
    process.die_after = reports
    job = finish(worker, ledger, job_id)
    assert (job.status, job.attempt) == (JobStatus.SUCCEEDED, 2)
    assert process.starts == 2
    assert len(ledger.registry.get("support-bot").versions) == 1


def test_a_job_that_always_kills_its_process_fails_alone(
    worker: Worker, ledger: Ledger, process: FakeProcess, tmp_path: Path
) -> None:
    bad, good = submit(ledger, tmp_path), submit(ledger, tmp_path)

    def kill_the_bad_one() -> bool:
        if process.admitted and process.admitted[-1].job_id == bad and process.die_after is None:
            process.die_after = 1  # once it has said that it is ready
        return ledger.jobs.get(bad).phase is Phase.ENDED

    work_until(worker, kill_the_bad_one)
    assert ledger.jobs.get(bad).error.code == "worker_lost"
    process.die_after = None
    assert finish(worker, ledger, good).status is JobStatus.SUCCEEDED


def test_a_cancelled_job_is_dropped_from_the_process(
    worker: Worker, ledger: Ledger, process: FakeProcess, tmp_path: Path
) -> None:
    job_id = submit(ledger, tmp_path)
    work_until(worker, lambda: len(process.admitted) == 1)
    ledger.jobs.cancel(job_id)
    job = finish(worker, ledger, job_id)
    assert (job.status, process.dropped) == (JobStatus.CANCELLED, [job_id])
    assert ledger.registry.list() == []
    following = finish(worker, ledger, submit(ledger, tmp_path))
    assert following.status is JobStatus.SUCCEEDED


def test_a_job_that_cannot_go_on_fails_with_the_process_s_words(
    worker: Worker, ledger: Ledger, process: FakeProcess, tmp_path: Path
) -> None:
    process.fail_with = Failed(job_id="", attempt=0, code="loss_diverged", message="NaN at step 3")
    job = finish(worker, ledger, submit(ledger, tmp_path))
    assert (job.status, job.error.code) == (JobStatus.FAILED, "loss_diverged")
    assert job.error.message == "NaN at step 3"


def test_a_job_that_could_end_differently_is_tried_again(
    worker: Worker, ledger: Ledger, process: FakeProcess, tmp_path: Path
) -> None:
    process.fail_with = Failed(job_id="", attempt=0, code="x", message="no memory", retryable=True)
    job_id = submit(ledger, tmp_path)
    work_until(worker, lambda: ledger.jobs.get(job_id).losses == 1)
    process.fail_with = None
    job = finish(worker, ledger, job_id)
    assert job.status is JobStatus.SUCCEEDED
    assert job.attempt > 1


def test_a_job_whose_data_is_gone_fails_and_the_next_one_runs(
    worker: Worker, ledger: Ledger, tmp_path: Path
) -> None:
    lost = new_job()
    ledger.jobs.submit(lost, render=render)
    assert finish(worker, ledger, lost.id).error.code == "file_not_found"
    assert finish(worker, ledger, submit(ledger, tmp_path)).status is JobStatus.SUCCEEDED


@pytest.mark.parametrize(
    ("gate", "valid_loss", "live"),
    [("auto", 1.0, True), ("auto", 2.5, False), ("off", 2.5, True), ("auto", None, True)],
)
def test_the_gate_lets_live_move_only_to_what_beats_the_base(
    gate: str,
    valid_loss: float | None,
    live: bool,
    worker: Worker,
    ledger: Ledger,
    process: FakeProcess,
    tmp_path: Path,
) -> None:
    process.valid_loss = valid_loss
    finish(worker, ledger, submit(ledger, tmp_path, gate=gate))
    assert (ledger.registry.get("support-bot").live is not None) == live


def test_training_on_a_quantised_base_is_judged_and_told_by_what_is_served(
    worker: Worker, ledger: Ledger, process: FakeProcess, tmp_path: Path
) -> None:
    process.valid_loss, process.served_valid_loss = 1.0, 1.25
    job = finish(worker, ledger, submit(ledger, tmp_path))
    assert job.progress.valid_loss == 1.25
    (event,) = [one for one in ledger.jobs.events(job.id) if "unquantised" in one.message]
    assert "nf4, with a validation loss of 1.0000 there" in event.message
    assert "1.2500, a gap of +0.2500; the base model alone 2.0000" in event.message
    assert event.data == {
        "quantization": "nf4",
        "valid_loss": 1.0,
        "served_valid_loss": 1.25,
        "base_valid_loss": 2.0,
    }
    assert ledger.registry.get("support-bot").live.number == 1


def test_what_is_only_better_on_the_quantised_base_does_not_go_live(
    worker: Worker, ledger: Ledger, process: FakeProcess, tmp_path: Path
) -> None:
    process.valid_loss, process.served_valid_loss = 1.0, 2.5
    job = finish(worker, ledger, submit(ledger, tmp_path, gate="auto"))
    assert job.fine_tuned_model == "support-bot@1"
    assert ledger.registry.get("support-bot").live is None


def test_a_worker_that_is_told_to_stop_gives_its_job_back(
    worker: Worker, ledger: Ledger, process: FakeProcess, tmp_path: Path
) -> None:
    job_id = submit(ledger, tmp_path)
    worker.run(lambda: bool(process.admitted))
    job = ledger.jobs.get(job_id)
    assert (job.status, job.losses, process.stopped) == (JobStatus.QUEUED, 0, True)


def test_a_worker_that_was_killed_takes_its_job_back_at_once(
    worker: Worker, ledger: Ledger, process: FakeProcess, tmp_path: Path
) -> None:
    job_id = submit(ledger, tmp_path)
    ledger.jobs.claim(worker="w", base_model=BASE, lease_seconds=600, max_losses=3)
    worker.run(lambda: ledger.jobs.get(job_id).status is JobStatus.SUCCEEDED)
    assert ledger.jobs.get(job_id).attempt == 2
