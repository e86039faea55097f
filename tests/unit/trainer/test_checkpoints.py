from pathlib import Path

import pytest

from adapters.artifacts import LocalArtifacts
from adapters.ledger import Ledger
from adapters.records import JobStatus, Phase
from tests.support.fake_process import FakeProcess
from tests.support.samples import weights_of
from tests.unit.trainer.workshop import finish, submit, work_until
from trainer.worker import Worker


@pytest.fixture
def process() -> FakeProcess:
    process = FakeProcess(steps=8, checkpoint_every=100)
    process.exports = {2, 4, 6, 8}
    return process


def test_what_a_process_exports_becomes_a_checkpoint_of_the_job(
    worker: Worker, ledger: Ledger, tmp_path: Path
) -> None:
    job = finish(worker, ledger, submit(ledger, tmp_path))
    assert job.status is JobStatus.SUCCEEDED
    checkpoints = ledger.checkpoints.list(job.id)
    assert [one.step for one in checkpoints] == [8, 6, 4]
    for one in checkpoints:
        directory = ledger.registry.directory(one)
        assert (directory / "adapter_model.safetensors").read_bytes() == weights_of(
            f"{job.id} {one.step}".encode()
        )
        assert f'"steps": {one.step}' in (directory / "graft.json").read_text()
    said = [event.message for event in ledger.jobs.events(job.id)]
    at = said.index("Checkpoint created at step 4")
    assert "Step 4/8: training loss=0.2500" in said[:at]


def test_a_job_starts_from_a_checkpoint(
    worker: Worker, ledger: Ledger, process: FakeProcess, tmp_path: Path
) -> None:
    job = finish(worker, ledger, submit(ledger, tmp_path))
    checkpoint = ledger.checkpoints.list(job.id)[1]
    finish(worker, ledger, submit(ledger, tmp_path, parent=checkpoint.name))
    assert process.admitted[-1].parent == ledger.registry.directory(checkpoint)


def test_a_job_that_is_cancelled_keeps_no_further_checkpoint(
    worker: Worker, ledger: Ledger, process: FakeProcess, tmp_path: Path
) -> None:
    job_id = submit(ledger, tmp_path)
    work_until(worker, lambda: len(ledger.checkpoints.list(job_id)) == 1)
    ledger.jobs.cancel(job_id)
    finish(worker, ledger, job_id)
    assert [one.step for one in ledger.checkpoints.list(job_id)] == [2]
    assert process.training == set()


def test_a_paused_job_has_each_checkpoint_once_in_the_end(
    worker: Worker, ledger: Ledger, tmp_path: Path
) -> None:
    job_id = submit(ledger, tmp_path)
    work_until(worker, lambda: len(ledger.checkpoints.list(job_id)) == 2)
    ledger.jobs.pause(job_id)
    work_until(worker, lambda: ledger.jobs.get(job_id).phase is Phase.PAUSED)
    ledger.jobs.resume(job_id)
    finish(worker, ledger, job_id)
    said = [e.message for e in ledger.jobs.events(job_id) if e.message.startswith("Checkpoint")]
    assert said == [f"Checkpoint created at step {step}" for step in (2, 4, 6, 8)]


def test_a_full_disk_costs_the_checkpoint_and_not_the_job(
    worker: Worker, ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put, refused = LocalArtifacts.put_version, []

    def full(self: LocalArtifacts, source: Path) -> str:
        if "exported" in source.name and not refused:
            refused.append(source)
            raise OSError(28, "No space left on device")
        return put(self, source)

    monkeypatch.setattr(LocalArtifacts, "put_version", full)
    job = finish(worker, ledger, submit(ledger, tmp_path))
    assert (job.status, job.attempt, len(refused)) == (JobStatus.SUCCEEDED, 1, 1)
    assert [one.step for one in ledger.checkpoints.list(job.id)] == [8, 6, 4]
