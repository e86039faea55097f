"""The artifact store does not answer for a while: jobs wait for it, and none is lost to it."""

from collections.abc import Callable
from errno import ENOSPC
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from adapters.artifacts import LocalArtifacts
from adapters.errors import StoreUnavailable
from adapters.ledger import Ledger
from adapters.records import JobStatus, Phase
from tests.support.fake_process import FakeProcess
from tests.unit.trainer.workshop import finish, make_worker, submit, work_until
from trainer import errands
from trainer.errands import Errands
from trainer.worker import Worker

Outage = Callable[..., list[Any]]


@pytest.fixture
def outage(monkeypatch: pytest.MonkeyPatch) -> Outage:
    """The store's method does not answer the first so many times that it is asked. Returns what it was asked."""
    monkeypatch.setattr(errands, "_LATER_S", 0.0)
    monkeypatch.setattr("trainer.worker.AGAIN_S", 0.0)

    def begin(method: str, *, times: int, when: Callable[..., bool] = lambda *_: True) -> list[Any]:
        plain, refused = getattr(LocalArtifacts, method), []

        def asked(self: LocalArtifacts, *arguments: Any) -> Any:
            if len(refused) < times and when(*arguments):
                refused.append(arguments)
                raise StoreUnavailable("The artifact store does not answer.", retry_after=5)
            return plain(self, *arguments)

        monkeypatch.setattr(LocalArtifacts, method, asked)
        return refused

    return begin


def test_a_finished_job_is_published_once_the_store_is_back(
    worker: Worker, ledger: Ledger, process: FakeProcess, tmp_path: Path, outage: Outage
) -> None:
    refused = outage("put_version", times=20)
    process.served_valid_loss = 1.5
    job = finish(worker, ledger, submit(ledger, tmp_path))
    assert len(refused) == 20
    assert (job.status, job.attempt, job.losses) == (JobStatus.SUCCEEDED, 1, 0)
    assert len(ledger.registry.get("support-bot").versions) == 1
    said = [event.message for event in ledger.jobs.events(job.id)]
    assert sum(message.startswith("Trained on the base model in nf4") for message in said) == 1


def test_others_are_trained_and_published_while_one_waits(
    worker: Worker, ledger: Ledger, tmp_path: Path, outage: Outage
) -> None:
    first = submit(ledger, tmp_path, "first")
    outage("put_version", times=10_000, when=lambda source: first in str(source))
    second = submit(ledger, tmp_path, "second")
    assert finish(worker, ledger, second).status is JobStatus.SUCCEEDED
    waiting = ledger.jobs.get(first)
    assert (waiting.phase, waiting.attempt) == (Phase.PUBLISHING, 1)


def test_the_lease_of_a_job_that_waits_is_renewed(
    ledger: Ledger, process: FakeProcess, tmp_path: Path, prompt: None, outage: Outage
) -> None:
    worker = make_worker(ledger, process, tmp_path, heartbeat_seconds=1e-6)
    outage("put_version", times=10_000)
    job_id = submit(ledger, tmp_path)
    work_until(worker, lambda: ledger.jobs.get(job_id).phase is Phase.PUBLISHING)
    before = ledger.jobs.get(job_id).lease_expires_at
    for _ in range(3):
        worker.turn()
    assert ledger.jobs.get(job_id).lease_expires_at > before


def test_checkpoints_that_had_to_wait_come_in_their_order(
    worker: Worker, ledger: Ledger, process: FakeProcess, tmp_path: Path, outage: Outage
) -> None:
    process.exports = {1, 2}
    outage("put_version", times=3)
    job = finish(worker, ledger, submit(ledger, tmp_path))
    assert [one.step for one in ledger.checkpoints.list(job.id)] == [3, 2, 1]


def test_a_job_of_which_the_data_cannot_be_fetched_waits_in_the_queue(
    worker: Worker, ledger: Ledger, process: FakeProcess, tmp_path: Path, outage: Outage
) -> None:
    outage("lend_file", times=5)
    job = finish(worker, ledger, submit(ledger, tmp_path))
    assert (job.status, job.attempt, job.losses) == (JobStatus.SUCCEEDED, 6, 0)
    said = [event.message for event in ledger.jobs.events(job.id)]
    assert any("The artifact store does not answer" in message for message in said)


def test_a_job_that_waits_can_be_cancelled(
    worker: Worker, ledger: Ledger, process: FakeProcess, tmp_path: Path, outage: Outage
) -> None:
    outage("put_version", times=10_000)
    job_id = submit(ledger, tmp_path)
    work_until(worker, lambda: ledger.jobs.get(job_id).phase is Phase.PUBLISHING)
    ledger.jobs.cancel(job_id)
    assert finish(worker, ledger, job_id).status is JobStatus.CANCELLED
    for _ in range(5):
        worker.turn()
    assert process.training == set()


def test_the_worker_looks_after_its_leases_while_bytes_travel() -> None:
    renewed = Event()

    def travel(how: str) -> str:
        assert renewed.wait(10)
        return how

    errands_of = Errands(renewed.set, every=0.001, beside=True)
    assert errands_of.run(travel, "slowly") == "slowly"
    errands_of.close()


def test_a_job_whose_data_finds_no_room_on_this_machine_is_tried_again(
    worker: Worker, ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, full = LocalArtifacts.lend_file, [OSError(ENOSPC, "No space left on device")]

    def lend(self: LocalArtifacts, *arguments: Any) -> Path:
        if full:
            raise full.pop()
        return plain(self, *arguments)

    monkeypatch.setattr(LocalArtifacts, "lend_file", lend)
    job = finish(worker, ledger, submit(ledger, tmp_path))
    assert (job.status, job.attempt) == (JobStatus.SUCCEEDED, 2)
    said = [event.message for event in ledger.jobs.events(job.id)]
    assert any("No space left" in message for message in said)


def test_a_work_folder_of_a_job_that_this_ledger_does_not_know_stays(
    worker: Worker, ledger: Ledger, tmp_path: Path
) -> None:
    """As after a restore of an older database."""
    folder = tmp_path / "work" / "ftjob-of-another-ledger"
    folder.mkdir(parents=True)
    assert finish(worker, ledger, submit(ledger, tmp_path)).status is JobStatus.SUCCEEDED
    assert folder.is_dir()
