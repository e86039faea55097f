from pathlib import Path

import pytest

from adapters.errors import LeaseLost
from adapters.ledger import Ledger
from adapters.records import Job, JobNote
from tests.support.samples import BASE, adapter_directory, manifest
from tests.unit.trainer.workshop import submit
from trainer.publish import publish


@pytest.fixture
def job(ledger: Ledger, tmp_path: Path) -> Job:
    submit(ledger, tmp_path)
    job = ledger.jobs.claim(worker="w", base_model=BASE, lease_seconds=60, max_losses=9)
    assert job is not None
    return job


def note(job: Job) -> JobNote:
    return JobNote(job=job, phase=job.phase, progress=job.progress)


def test_the_manifest_of_another_attempt_is_another_file(
    ledger: Ledger, job: Job, tmp_path: Path
) -> None:
    directory = adapter_directory(tmp_path / "made")
    version = publish(ledger, note(job), directory, manifest(job))
    kept = ledger.registry.directory(version) / "graft.json"
    before = kept.read_text()
    with pytest.raises(LeaseLost):
        publish(ledger, note(job), directory, manifest(job, valid_loss=9.0))
    submit(ledger, tmp_path)
    following = ledger.jobs.claim(worker="w", base_model=BASE, lease_seconds=60, max_losses=9)
    publish(ledger, note(following), directory, manifest(following, valid_loss=9.0))
    assert kept.read_text() == before


def test_nothing_is_stored_for_a_job_that_was_cancelled(
    ledger: Ledger, job: Job, tmp_path: Path
) -> None:
    ledger.jobs.cancel(job.id)
    with pytest.raises(LeaseLost):
        publish(ledger, note(job), adapter_directory(tmp_path / "made"), manifest(job))
    assert list((tmp_path / "artifacts" / "versions").iterdir()) == []
