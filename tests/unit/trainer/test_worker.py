import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from adapters.errors import Unavailable
from adapters.ledger import Ledger
from adapters.records import JobStatus, Phase
from tests.support.fake_process import FakeProcess
from tests.support.samples import BASE, new_job, render
from tests.unit.trainer.workshop import finish, make_worker, submit, work_until
from trainer.child import AnyReport
from trainer.messages import Failed
from trainer.settings import TrainerSettings
from trainer.worker import Worker


def test_a_job_is_trained_published_and_settled(
    worker: Worker, ledger: Ledger, tmp_path: Path
) -> None:
    job = finish(worker, ledger, submit(ledger, tmp_path))
    assert (job.status, job.fine_tuned_model) == (JobStatus.SUCCEEDED, "support-bot@1")
    live = ledger.registry.get("support-bot").live
    assert (ledger.registry.directory(live) / "graft.json").exists()
    assert not (tmp_path / "work" / job.id).exists()
    said = [event.message for event in ledger.jobs.events(job.id)]
    assert said[:5] == [
        f"Created fine-tuning job: {job.id}",
        f"Validating training file: {job.training_file}",
        "Files validated, moving job to queued state",
        "Fine-tuning job started",
        "Training begins: 9 rows to train on, 1 held out",
    ]
    assert "one row is odd" in said
    assert "Training state saved at step 2" in said
    assert said[-1] == "The job has successfully completed"


def test_jobs_that_come_together_train_together_oldest_first(
    worker: Worker, ledger: Ledger, process: FakeProcess, tmp_path: Path
) -> None:
    ids = [submit(ledger, tmp_path) for _ in range(8)]
    work_until(worker, lambda: len(process.admitted) == 8)
    assert [order.job_id for order in process.admitted] == ids
    assert all(ledger.jobs.get(job_id).status is JobStatus.RUNNING for job_id in ids)
    finish(worker, ledger, *ids)
    assert process.starts == 1
    assert len(ledger.registry.get("support-bot").versions) == 8


def test_claims_follow_each_other_without_waiting_and_an_idle_worker_waits(
    ledger: Ledger, tmp_path: Path
) -> None:
    process = Patient()
    worker = make_worker(ledger, process, tmp_path, poll_seconds=0.05)
    for _ in range(4):
        worker.turn()
    assert process.waits[-1] == pytest.approx(0.05, abs=0.01)
    for _ in range(8):
        submit(ledger, tmp_path)
    while not process.admitted:
        time.sleep(0.01)
        worker.turn()
    process.waits.clear()
    for _ in range(7):
        worker.turn()
    assert (len(process.admitted), process.waits) == (8, [0.0] * 7)
    work_until(worker, lambda: not process.training)
    for _ in range(3):
        worker.turn()
    assert process.waits[-1] > 0.0


def test_no_more_jobs_are_taken_than_the_process_may_have(
    ledger: Ledger, process: FakeProcess, tmp_path: Path, prompt: None
) -> None:
    worker = make_worker(ledger, process, tmp_path, max_jobs=2)
    ids = [submit(ledger, tmp_path) for _ in range(5)]
    most = 0

    def all_done() -> bool:
        nonlocal most
        most = max(most, len(process.training))
        return all(ledger.jobs.get(job_id).phase is Phase.ENDED for job_id in ids)

    work_until(worker, all_done)
    assert most == 2
    assert ledger.jobs.count()["succeeded"] == 5


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


def test_cancelling_one_of_several_leaves_the_others_alone(
    worker: Worker, ledger: Ledger, process: FakeProcess, tmp_path: Path
) -> None:
    ids = [submit(ledger, tmp_path) for _ in range(3)]
    work_until(worker, lambda: len(process.training) == 3)
    ledger.jobs.cancel(ids[1])
    finish(worker, ledger, *ids)
    assert process.dropped == [ids[1]]
    statuses = [ledger.jobs.get(job_id).status.value for job_id in ids]
    assert statuses == ["succeeded", "cancelled", "succeeded"]


def test_a_job_starts_from_its_parent(
    worker: Worker, ledger: Ledger, process: FakeProcess, tmp_path: Path
) -> None:
    finish(worker, ledger, submit(ledger, tmp_path))
    finish(worker, ledger, submit(ledger, tmp_path, parent="support-bot@1"))
    parent = ledger.registry.version("support-bot@1")
    assert process.admitted[-1].parent == ledger.registry.directory(parent)
    assert process.admitted[0].parent is None


def test_a_job_whose_parent_is_gone_fails_and_its_neighbour_does_not(
    worker: Worker, ledger: Ledger, tmp_path: Path
) -> None:
    orphan = submit(ledger, tmp_path, parent="support-bot@7")
    job = finish(worker, ledger, submit(ledger, tmp_path), orphan)
    assert job.error.code == "adapter_not_found"
    assert ledger.jobs.count()["succeeded"] == 1


def test_a_report_that_the_ledger_could_not_take_is_told_again(
    worker: Worker, ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = submit(ledger, tmp_path)
    publish, refused = ledger.registry.publish, []

    def busy(*args: object, **named: object) -> object:
        if not refused:
            refused.append(True)
            raise Unavailable("locked", retry_after=1)
        return publish(*args, **named)

    monkeypatch.setattr(type(ledger.registry), "publish", lambda _, *a, **n: busy(*a, **n))
    assert finish(worker, ledger, job_id).attempt == 1
    assert refused


def test_a_ledger_that_does_not_answer_fails_no_job(
    ledger: Ledger, process: FakeProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = make_worker(ledger, process, tmp_path, lease_seconds=1.01)
    job_id = submit(ledger, tmp_path)
    with monkeypatch.context() as patched:

        def busy(*_: object) -> Path:
            raise Unavailable("locked", retry_after=1)

        patched.setattr(type(ledger.files), "lend", busy)
        work_until(worker, lambda: ledger.jobs.get(job_id).status is JobStatus.RUNNING)
    assert process.admitted == []
    time.sleep(1.1)
    assert finish(worker, ledger, job_id).status is JobStatus.SUCCEEDED


def test_jobs_of_a_dead_process_are_given_back_when_the_ledger_answers_again(
    worker: Worker,
    ledger: Ledger,
    process: FakeProcess,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    job_id = submit(ledger, tmp_path)
    work_until(worker, lambda: bool(process.training))
    with monkeypatch.context() as patched:

        def away(*_: object, **__: object) -> None:
            raise Unavailable("away", retry_after=1)

        patched.setattr(type(ledger.jobs), "requeue", away)
        process.kill()
        for _ in range(3):
            worker.turn()
        assert process.starts == 1, "it was started while its jobs were still in hand"
    job = finish(worker, ledger, job_id)
    assert (job.status, job.attempt) == (JobStatus.SUCCEEDED, 2)


def test_a_worker_begins_and_ends_while_the_ledger_does_not_answer(
    worker: Worker, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def away(_: object, worker_id: str) -> int:
        asked.append(worker_id)
        raise Unavailable("away", retry_after=1)

    monkeypatch.setattr(type(ledger.jobs), "take_back", away)
    monkeypatch.setattr(type(ledger.queue), "leave", away)
    worker.run(lambda: len(asked) == 2)
    assert asked == ["w", "w", "w"]


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


def test_a_job_whose_files_cannot_be_written_waits_longer_each_time(
    ledger: Ledger, process: FakeProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    delays_s = TrainerSettings().retry_seconds
    worker = make_worker(ledger, process, tmp_path, max_losses=4, retry_seconds=delays_s)
    process.fail_with = Failed(job_id="", attempt=0, code="x", message="disk", retryable=True)
    job_id = submit(ledger, tmp_path)
    requeue, delays = ledger.jobs.requeue, []

    def at_once(notes: object, *, delay: float = 0.0, **how: object) -> None:
        delays.append(delay)
        requeue(notes, **how)

    monkeypatch.setattr(type(ledger.jobs), "requeue", lambda _, *a, **n: at_once(*a, **n))
    assert finish(worker, ledger, job_id).error.code == "worker_lost"
    assert delays == [10.0, 60.0, 300.0, 300.0]


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
    ids = [submit(ledger, tmp_path) for _ in range(3)]
    worker.run(lambda: len(process.training) == 3)
    for job in map(ledger.jobs.get, ids):
        assert (job.status, job.losses, process.stopped) == (JobStatus.QUEUED, 0, True)


def test_a_worker_that_was_killed_takes_its_job_back_at_once(
    worker: Worker, ledger: Ledger, process: FakeProcess, tmp_path: Path
) -> None:
    job_id = submit(ledger, tmp_path)
    ledger.jobs.claim(worker="w", base_model=BASE, lease_seconds=600, max_losses=3)
    worker.run(lambda: ledger.jobs.get(job_id).status is JobStatus.SUCCEEDED)
    assert ledger.jobs.get(job_id).attempt == 2


def test_a_trainer_that_is_killed_twice_makes_no_suspects_of_jobs_that_move(
    ledger: Ledger, tmp_path: Path, prompt: None
) -> None:
    ids = [submit(ledger, tmp_path) for _ in range(3)]
    for step in (2, 4):
        process = FakeProcess(steps=6)
        killed = make_worker(ledger, process, tmp_path)
        ledger.jobs.take_back("w")
        far = lambda: all(ledger.jobs.get(i).progress.step >= step for i in ids)  # noqa: B023, E731
        work_until(killed, far)
    jobs = [ledger.jobs.get(job_id) for job_id in ids]
    assert [job.status for job in jobs] == [JobStatus.RUNNING] * 3
    ledger.jobs.take_back("w")
    assert [ledger.jobs.get(job_id).losses for job_id in ids] == [0, 0, 0]


class Patient(FakeProcess):
    """Notes how long the worker would wait for it."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[float] = []

    def receive(self, timeout: float) -> Sequence[AnyReport]:
        self.waits.append(timeout)
        return super().receive(timeout)
