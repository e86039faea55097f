"""Jobs and workers under attack, and what must be true of the ledger afterwards."""

import sqlite3
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import psycopg

from adapters.errors import Unavailable
from adapters.ledger import Ledger, open_ledger
from adapters.records import JobStatus
from adapters.settings import LedgerSettings
from tests.chaos.nursery import Nursery, Order, Process
from tests.chaos.toy import outcome
from tests.support.samples import BASE, new_job, render, weights_of

PATIENCE = 60.0
#: Who holds a lock for longer has been stopped.
_LOCKED_S = 0.1
_TRANSACTIONS = (
    "SELECT pid, xact_start FROM pg_stat_activity"
    " WHERE datname = current_database() AND pid <> pg_backend_pid() AND state <> 'idle'"
)
_DONE = "The job has successfully completed"


class Siege:
    """A home, its jobs, and workers that are named when they are born."""

    def __init__(
        self, home: Path, nursery: Nursery | None, database_url: str = "", **order
    ) -> None:
        self.home, self.database_url = home, database_url
        self.settings = LedgerSettings(home=home, database_url=database_url)
        self.ledger: Ledger = open_ledger(self.settings)
        self._nursery, self._order = nursery, order
        self.workers: dict[str, Process] = {}
        self.ids: list[str] = []
        data = home / "data.jsonl"
        data.write_text("{}")
        self._file = self.ledger.files.add(data, filename="data.jsonl", purpose="fine-tune").id

    # ---- jobs

    def submit(self, count: int = 1, adapter: str = "") -> None:
        for _ in range(count):
            name = adapter or f"bot-{len(self.ids) % 7}"
            new = replace(new_job(name), training_file=self._file)
            self.ids.append(self.ledger.jobs.submit(new, render=render).body)

    @property
    def open(self) -> int:
        """How many jobs wait or run."""
        count = self.ledger.jobs.count()
        return count["queued"] + count["running"]

    @property
    def running(self) -> int:
        return self.ledger.jobs.count()["running"]

    def supply(self, wanted: int) -> None:
        """See to it that there is always something to do, for that many workers."""
        self.submit(max(0, wanted - self.open))

    # ---- workers

    def bear(self, name: str) -> None:
        assert self._nursery is not None, "whoever makes the workers made no nursery"
        self.workers[name] = self._nursery.bear(
            Order(home=str(self.home), database_url=self.database_url, name=name, **self._order)
        )

    def kill(self, name: str) -> None:
        self.workers.pop(name).kill()

    def revive_the_dead(self) -> None:
        """As a launcher does."""
        for name, process in list(self.workers.items()):
            if not process.alive:
                self.kill(name)
                self.bear(name)

    def settle(self, seconds: float = PATIENCE) -> None:
        """Nobody attacks any more; return when every job has ended."""
        until(lambda: self.revive_the_dead() or self.open == 0, seconds)

    def end(self) -> None:
        for name in list(self.workers):
            self.kill(name)
        self.ledger.close()

    def can_write(self) -> bool:
        """Whether nobody holds a lock: on SQLite that of the whole database, on PostgreSQL those of rows."""
        if self.database_url:
            with psycopg.connect(self.database_url, autocommit=True) as there:
                return transactions_end(there, _LOCKED_S)
        connection = sqlite3.connect(
            self.home / "graft.db", timeout=_LOCKED_S, isolation_level=None
        )
        try:
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            return False
        else:
            connection.execute("ROLLBACK")
            return True
        finally:
            connection.close()

    # ---- what must be true

    def check(self) -> str:
        """In words, what was found; raises where anything is lost, doubled or torn."""
        ledger = self.ledger
        jobs = {job.id: job for job in ledger.jobs.list(limit=10**6)}
        assert set(jobs) == set(self.ids), "a job is lost, or was never asked for"
        assert {job.status for job in jobs.values()} == {JobStatus.SUCCEEDED}
        versions = [version for one in ledger.registry.list() for version in one.versions]
        made = Counter(version.job_id for version in versions)
        assert made == Counter(self.ids), "a job has made no version, or more than one"
        for version in versions:
            weights = ledger.registry.directory(version) / "adapter_model.safetensors"
            wanted = weights_of(outcome(version.job_id).encode())
            assert weights.read_bytes() == wanted, (
                f"{version.name} is torn, or was trained otherwise"
            )
            assert jobs[version.job_id].fine_tuned_model == version.name
        for job_id in self.ids:
            told = ledger.jobs.events(job_id, limit=10**6)
            assert [event.seq for event in told] == list(range(1, len(told) + 1))
            assert sum(event.message == _DONE for event in told) == 1
        self.check_files({version.digest for version in versions})
        attempts = sum(job.attempt for job in jobs.values())
        return f"{len(jobs):,} jobs in {attempts:,} attempts: 0 lost, 0 doubled, 0 torn"

    def check_files(self, named: set[str]) -> None:
        """The database is whole, every version that it names is there, and what is left over can be cleared away."""
        if not self.database_url:
            connection = sqlite3.connect(self.home / "graft.db")
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            connection.close()
        stored = {path.name for path in (self.settings.artifacts_dir / "versions").iterdir()}
        assert named <= stored


def until(condition: Callable[[], bool], seconds: float = PATIENCE) -> None:
    """Return once it holds."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            if condition():
                return
        except Unavailable:
            pass
        assert time.monotonic() < deadline, "it never came to that"
        time.sleep(0.01)


__all__ = ["BASE", "Siege", "until"]


def transactions_end(there: "psycopg.Connection[tuple[object, ...]]", seconds: float) -> bool:
    """Whether all that are open now have ended by then."""
    deadline = time.monotonic() + seconds
    left = set(there.execute(_TRANSACTIONS).fetchall())
    while left and time.monotonic() < deadline:
        time.sleep(0.005)
        left &= set(there.execute(_TRANSACTIONS).fetchall())
    return not left
