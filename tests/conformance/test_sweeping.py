"""What lies in the store and nobody names goes. What somebody names, or might yet, or another put there, stays."""

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from sqlalchemy import update

from adapters.artifacts import LocalArtifacts
from adapters.bucket.artifacts import BucketArtifacts
from adapters.bucket.cache import Cache
from adapters.bucket.client import Bucket
from adapters.bucket.states import BucketStates
from adapters.db.connect import Database
from adapters.db.schema import ledgers
from adapters.ledger import Ledger, open_ledger
from adapters.settings import LedgerSettings
from tests.support.samples import BASE, adapter_directory, manifest, new_job, render

DAY = 24 * 3600.0


@pytest.fixture(params=["folder", "bucket"])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> LedgerSettings:
    home = tmp_path / "home"
    if request.param == "folder":
        return LedgerSettings(home=home)
    seaweed: Any = request.getfixturevalue("seaweed")
    return seaweed.settings(home, seaweed.url())


@pytest.fixture
def ledger(settings: LedgerSettings) -> Iterator[Ledger]:
    settings.home.mkdir()
    ledger = open_ledger(settings)
    yield ledger
    ledger.close()


@pytest.fixture
def artifacts(settings: LedgerSettings) -> BucketArtifacts | LocalArtifacts:
    """The same store, in the hand of somebody who knows no ledger."""
    if settings.store is None:
        return LocalArtifacts(settings.artifacts_dir)
    return BucketArtifacts(
        Bucket(settings.store), Cache(settings.home / "another", most_bytes=1 << 30)
    )


def published(ledger: Ledger, made: Path) -> str:
    new = new_job()
    ledger.jobs.submit(new, render=render)
    job = ledger.jobs.claim(worker="w", base_model=BASE, lease_seconds=60, max_losses=9)
    source = adapter_directory(made / "named", content=b"named")
    return ledger.registry.publish(job, source, manifest(job), promote=True).digest


def test_only_what_nobody_names_and_nobody_will_goes(
    ledger: Ledger, settings: LedgerSettings, artifacts: BucketArtifacts, tmp_path: Path
) -> None:
    rows = tmp_path / "rows"
    rows.write_text("{}")
    _founded_long_ago(settings)
    named = published(ledger, tmp_path)
    file = ledger.files.add(rows, filename="rows.jsonl", purpose="fine-tune")
    orphan = artifacts.put_version(adapter_directory(tmp_path / "orphan", content=b"orphan"))
    artifacts.put_file(rows, "file-orphan")

    assert ledger.sweeper.sweep(now=time.time(), older_than=DAY) == 0
    artifacts.version(orphan)
    assert ledger.sweeper.sweep(now=time.time() + 2 * DAY, older_than=DAY) == 2
    assert {stored.name for stored in artifacts.stored()} == {named, file.id}
    ledger.files.path(file.id)


def test_what_is_older_than_the_ledger_or_in_a_store_of_another_stays(
    ledger: Ledger, settings: LedgerSettings, artifacts: BucketArtifacts, tmp_path: Path
) -> None:
    orphan = artifacts.put_version(adapter_directory(tmp_path / "orphan"))
    another = open_ledger(
        settings.model_copy(update={"database_url": SecretStr(f"sqlite:///{tmp_path}/new.db")})
    )
    later = time.time() + 2 * DAY
    # The other is younger than the bytes; and then the store belongs to it.
    another_found = another.sweeper.sweep(now=later, older_than=DAY)
    assert (another_found, ledger.sweeper.sweep(now=later, older_than=DAY)) == (0, 0)
    another.close()
    artifacts.version(orphan)


def test_checkpoints_of_jobs_that_have_ended_go(seaweed: Any, tmp_path: Path) -> None:
    settings = seaweed.settings(tmp_path, seaweed.url())
    ledger, states = open_ledger(settings), BucketStates(Bucket(settings.store))
    running, ended = (replace(new_job(name), training_file="file-1") for name in ("a", "b"))
    for job in (running, ended):
        ledger.jobs.submit(job, render=render)
    ledger.jobs.cancel(ended.id)
    directory = tmp_path / "step-00000001"
    directory.mkdir()
    (directory / "state.json").write_text("{}")
    for job_id in (running.id, ended.id, "ftjob-nobody-knows"):
        states.put(job_id, directory)
    assert ledger.sweeper.sweep(now=time.time(), older_than=DAY) == 2
    assert states.jobs() == {running.id}
    ledger.close()


def test_a_tenant_does_not_sweep(ledger: Ledger) -> None:
    with pytest.raises(AssertionError, match="forgotten"):
        ledger.of("acme").sweeper.sweep(now=time.time(), older_than=DAY)


def _founded_long_ago(settings: LedgerSettings) -> None:
    """Buckets tell time in whole seconds."""
    database = Database(settings.database)
    with database.write() as tx:
        tx.execute(update(ledgers).values(created_at=0))
    database.close()
