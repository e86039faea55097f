"""R20, R21: a database of an older release, and one that was copied while it was written to."""

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from dataclasses import asdict
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from pydantic import TypeAdapter
from sqlalchemy import Connection, MetaData, Table, insert, select

from adapters.db.connect import Database
from adapters.db.migrate import HEAD
from adapters.ledger import open_ledger
from adapters.records import JobStatus
from adapters.settings import LedgerSettings
from adapters.spec import TrainingSpec
from tests.chaos.nursery import ROOT
from tests.chaos.sizes import Chaos
from tests.support.samples import adapter_directory, manifest, new_job, render, weights_of

SCRIPTS = ROOT / "adapters" / "db" / "migrations"
#: Every schema that a commit on the main line has had, so that a home may have.
REVISIONS = [
    script.revision for script in reversed(list(ScriptDirectory(str(SCRIPTS)).walk_revisions()))
]
OPENER = """
import sys
from pathlib import Path
from adapters.ledger import open_ledger
from adapters.settings import LedgerSettings
print("ready", flush=True)
open_ledger(LedgerSettings(home=Path(sys.argv[1]), database_url=sys.argv[2]))
print("done", flush=True)
"""


@pytest.fixture(params=["sqlite", "postgres"])
def fresh(tmp_path: Path, request: pytest.FixtureRequest) -> tuple[str, "Fresh"]:
    return request.param, Fresh(tmp_path, request)


class Fresh:
    """Homes with a database that has nothing in it yet."""

    def __init__(self, root: Path, request: pytest.FixtureRequest) -> None:
        self._root, self._request = root, request

    def settings(self, name: str) -> LedgerSettings:
        home = self._root / name
        home.mkdir()
        if self._request.node.callspec.params["fresh"] == "sqlite":
            return LedgerSettings(home=home)
        server = self._request.getfixturevalue("postgres")
        database = server.create(migrated=False)
        self._request.addfinalizer(lambda: server.drop(database))
        return LedgerSettings(home=home, database_url=server.url(database))


def upgrade(tx: Connection, revision: str) -> None:
    config = Config()
    config.set_main_option("script_location", str(SCRIPTS))
    config.attributes["connection"] = tx
    command.upgrade(config, revision)


def table(tx: Connection, name: str) -> Table:
    return Table(name, MetaData(), autoload_with=tx)


def fill(tx: Connection, jobs: int) -> None:
    """Jobs with events and versions, as far as that release knew of them: whatever must be said is."""
    now = 1_700_000_000.0
    insert_rows(
        tx,
        "adapters",
        [{"name": "bot", "base_model": "b", "created_at": now, "last_number": jobs, "revision": 1}],
    )
    # Once: ten thousand times takes longer than PostgreSQL lets a transaction wait.
    job = new_job()
    spec = TypeAdapter(TrainingSpec).dump_python(job.spec, mode="json")
    dataset = asdict(job.dataset) | {"ignored_fields": []}
    rows = [
        {
            "id": f"ftjob-{number}",
            "adapter": "bot",
            "base_model": "b",
            "training_file": "file-1",
            "spec": spec,
            "dataset": dataset,
            "status": "queued" if number % 2 else "succeeded",
            "phase": "queued" if number % 2 else "ended",
            "progress": {"step": 0, "total_steps": 0},
            "created_at": now + number,
            "attempt": 0,
            "losses": 0,
            "not_before": 0.0,
            "last_event": 1,
        }
        for number in range(jobs)
    ]
    insert_rows(tx, "jobs", rows)
    events = [
        {
            "job_id": row["id"],
            "seq": 1,
            "kind": "status",
            "level": "info",
            "message": "Created",
            "created_at": now,
        }
        for row in rows
    ]
    insert_rows(tx, "job_events", events)
    versions = [
        {
            "adapter": "bot",
            "number": number + 1,
            "base_model": "b",
            "digest": f"{number:064d}",
            "job_id": f"ftjob-{number}",
            "rank": 16,
            "manifest": {},
            "created_at": now,
        }
        for number in range(0, jobs, 2)
    ]
    insert_rows(tx, "versions", versions)


def insert_rows(tx: Connection, name: str, rows: list[dict[str, object]]) -> None:
    known = table(tx, name)
    there = {column.name for column in known.columns}
    tx.execute(insert(known), [{k: v for k, v in row.items() if k in there} for row in rows])


def rows_of(database: Database) -> dict[str, int]:
    with database.read() as tx:
        return {
            name: len(tx.execute(select(table(tx, name))).all())
            for name in ("jobs", "job_events", "adapters", "versions")
        }


def test_every_schema_that_was_ever_released_comes_to_the_newest_though_killed_on_the_way(
    fresh: tuple[str, Fresh], chaos: Chaos
) -> None:
    kind, homes = fresh
    dice, jobs = chaos.dice(f"R20 {kind}"), chaos.of_size(ci=50, release=10_000)
    kills = chaos.of_size(ci=1, release=20)
    with chaos.experiment(
        f"R20 {kind}", f"every schema since the first -> {HEAD}, killed on the way, {kind}"
    ) as found:
        for revision in REVISIONS[:-1]:
            # At CI size only some of them are killed: a process that starts costs a second.
            killed = (
                kills if chaos.size == "release" or revision in {REVISIONS[0], REVISIONS[-2]} else 0
            )
            settings = homes.settings(revision)
            database = Database(settings.database)
            with database.write() as tx:
                upgrade(tx, revision)
                fill(tx, jobs)
            before = rows_of(database)
            for _ in range(killed):
                kill_while_opening(settings, dice.uniform(0.15, 0.6))
            ledger = open_ledger(settings)
            assert rows_of(database) == before
            assert len(ledger.jobs.list(limit=10**6)) == jobs
            assert ledger.jobs.count()["queued"] == jobs // 2
            claimed = ledger.jobs.claim(worker="w", base_model="b", lease_seconds=30, max_losses=9)
            assert claimed is not None
            assert (claimed.id, claimed.spec) == ("ftjob-1", new_job().spec)
            assert [event.message for event in ledger.jobs.events("ftjob-0")] == ["Created"]
            ledger.close()
            database.close()
            found.trials += 1 + killed
        found.unit = f"upgrades of {jobs:,} jobs"
        found.result = f"{len(REVISIONS) - 1} schemas: 0 rows lost, every one can be used"


def kill_while_opening(settings: LedgerSettings, after: float) -> None:
    process = subprocess.Popen(
        [
            sys.executable,
            "-c",
            OPENER,
            str(settings.home),
            settings.database_url.get_secret_value(),
        ],
        cwd=ROOT,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(after)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()


def test_a_copy_that_was_made_while_it_was_written_to_has_all_that_was_answered_before(
    tmp_path: Path, chaos: Chaos
) -> None:
    """As docs/operations.md says: the database by SQLite's own means, then the files."""
    rounds = chaos.of_size(ci=3, release=20)
    with chaos.experiment(
        "R21", "sqlite3 .backup and the files, while jobs are published"
    ) as found:
        source = LedgerSettings(home=tmp_path / "home")
        ledger = open_ledger(source)
        answered: list[str] = []
        stop = threading.Event()

        def write() -> None:
            while not stop.is_set():
                ledger.jobs.submit(new_job(), render=render)
                job = ledger.jobs.claim(
                    worker="w", base_model="tiny-base", lease_seconds=30, max_losses=9
                )
                made = adapter_directory(tmp_path / "made" / job.id, content=job.id.encode())
                ledger.registry.publish(job, made, manifest(job), promote=True)
                answered.append(job.id)

        writer = threading.Thread(target=write)
        writer.start()
        for number in range(rounds):
            while len(answered) < 10 * (number + 1):
                time.sleep(0.005)
            known = list(answered)
            restored = LedgerSettings(home=tmp_path / f"copy-{number}")
            copy(source, restored)
            require_whole(restored, known)
        stop.set()
        writer.join()
        ledger.close()
        found.trials, found.unit = rounds, "restores"
        found.result = "every job that was answered before is there, every version is whole"


def require_whole(restored: LedgerSettings, known: list[str]) -> None:
    there = open_ledger(restored)
    jobs = {job.id: job.status for job in there.jobs.list(limit=10**6)}
    assert {jobs[job_id] for job_id in known} == {JobStatus.SUCCEEDED}
    for adapter in there.registry.list():
        for version in adapter.versions:
            weights = there.registry.directory(version) / "adapter_model.safetensors"
            assert weights.read_bytes() == weights_of(version.job_id.encode())
    there.close()


def copy(source: LedgerSettings, target: LedgerSettings) -> None:
    target.home.mkdir()
    here, there = (sqlite3.connect(one.home / "graft.db") for one in (source, target))
    here.backup(there)
    here.close()
    there.close()
    shutil.copytree(
        source.artifacts_dir, target.artifacts_dir, ignore=shutil.ignore_patterns("staging")
    )
