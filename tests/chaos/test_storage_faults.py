"""R4: of all fsyncs, renames, links, new folders, writes and commits of a whole job, the k-th fails; for each k."""

import errno
import io
import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import event
from sqlalchemy.exc import OperationalError

from adapters.durable import new_directory
from adapters.errors import Unavailable
from adapters.ledger import Ledger, open_ledger
from adapters.records import JobStatus
from adapters.settings import LedgerSettings
from tests.chaos.sizes import Chaos
from tests.support.fake_process import FakeProcess
from tests.support.samples import weights_of
from tests.unit.trainer.workshop import make_worker, submit
from trainer.child import AnyReport
from trainer.messages import Checkpointed, Failed

CALLS = ("fsync", "rename", "replace", "link", "mkdir")


class Faults:
    """Counts what is asked of the disk, and lets one of it fail."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.seen, self.fails_at, self.errno = 0, 0, errno.EIO
        self.failed: str | None = None
        self.active = False
        for name in CALLS:
            patch.setattr(os, name, self._wrapped(name, getattr(os, name)))
        patch.setattr(io, "open", self._opening(io.open))

    def begin(self, fails_at: int, number: int) -> None:
        self.seen, self.fails_at, self.errno, self.failed = 0, fails_at, number, None

    @contextmanager
    def at_work(self, *, active: bool = True) -> Iterator[None]:
        before, self.active = self.active, active
        try:
            yield
        finally:
            self.active = before

    def watch(self, ledger: Ledger) -> None:
        """Commits too. What SQLite makes of a disk that fails is an error like this one."""

        def commit(_connection: object) -> None:
            try:
                self._happens("commit")
            except OSError as error:
                raise OperationalError(
                    "COMMIT", None, sqlite3.OperationalError(str(error))
                ) from error

        event.listen(ledger._drawer.database.engine, "commit", commit)

    def _happens(self, what: str) -> None:
        if not self.active:
            return
        self.seen += 1
        if self.seen == self.fails_at:
            self.failed = what
            raise OSError(self.errno, os.strerror(self.errno), what)

    def _wrapped(self, name: str, call: Callable) -> Callable:
        def wrapped(*args, **kwargs):
            self._happens(name)
            return call(*args, **kwargs)

        return wrapped

    def _opening(self, call: Callable) -> Callable:
        def opening(file, mode="r", *args, **kwargs):
            if set(mode) & set("wax+"):
                self._happens("write")
            return call(file, mode, *args, **kwargs)

        return opening


class Writing(FakeProcess):
    """It writes checkpoints as the real process does, and says so where it cannot."""

    def __init__(self, faults: Faults) -> None:
        super().__init__()
        self._faults = faults
        #: The fake has no work folder but that of the latest order.
        self.exports = {2}

    def receive(self, timeout: float) -> Sequence[AnyReport]:
        with self._faults.at_work(active=False):
            reports = super().receive(timeout)
        for report in reports:
            if isinstance(report, Checkpointed):
                try:
                    self._write(report)
                except OSError as error:
                    self._training.pop(report.job_id, None)
                    return [
                        Failed(
                            job_id=report.job_id,
                            attempt=report.attempt,
                            code="storage_error",
                            message=str(error),
                            retryable=True,
                        )
                    ]
        return reports

    def _write(self, report: Checkpointed) -> None:
        [order] = [one for one in self.admitted if one.attempt == report.attempt][-1:]
        with new_directory(order.work_dir / "checkpoints" / f"step-{report.step}") as aside:
            (aside / "state").write_text("x")


def submitted(ledger: Ledger, home: Path) -> str:
    """The client is told of a failure, and asks again."""
    for _ in range(3):
        try:
            return submit(ledger, home)
        except (OSError, Unavailable):
            continue
    raise AssertionError("one fault fails one request")


def ended(faults: Faults, ledger: Ledger, job_id: str) -> bool:
    """The test's own look is not what is tested."""
    with faults.at_work(active=False):
        return ledger.jobs.get(job_id).status.terminal


def one_job(faults: Faults, home: Path) -> Ledger:
    home.mkdir()
    ledger = open_ledger(LedgerSettings(home=home))
    faults.watch(ledger)
    worker = make_worker(ledger, Writing(faults), home, max_losses=9, lease_seconds=1.01)
    with faults.at_work():
        job_id = submitted(ledger, home)
        # What was claimed and could not be admitted is claimed again when its lease has run out.
        deadline = time.monotonic() + 30
        while not ended(faults, ledger, job_id):
            assert time.monotonic() < deadline, "the job does not end"
            worker.turn()
    job = ledger.jobs.get(job_id)
    if job.status is JobStatus.FAILED:
        assert job.error is not None
        assert job.error.message
        return ledger
    assert job.status is JobStatus.SUCCEEDED
    [adapter] = ledger.registry.list()
    assert adapter.live is not None
    weights = ledger.registry.directory(adapter.live) / "adapter_model.safetensors"
    assert weights.read_bytes() == weights_of(job_id.encode())
    return ledger


def nothing_half_written(ledger: Ledger, home: Path) -> None:
    """The janitor leaves nothing that no name leads to, but bytes that are whole."""
    old = time.time() - 3 * 86400
    for path in [*(home / "artifacts").rglob("*"), *(home / "parts").rglob("*")]:
        if path.name.startswith(".") or "staging" in path.parts:
            os.utime(path, (old, old), follow_symlinks=False)
    ledger.registry.purge(older_than=0)
    ledger.uploads.purge(older_than=0)
    left = [
        path
        for path in (home / "artifacts").rglob("*")
        if path.name.startswith(".") or path.parent.name == "staging"
    ]
    assert left == []


def test_whichever_write_fails_a_job_ends_well_or_says_why(
    chaos: Chaos, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    faults = Faults(monkeypatch)
    numbers = [[errno.EIO], [errno.ENOSPC]] if chaos.size == "ci" else [[errno.EIO, errno.ENOSPC]]
    with chaos.experiment(
        "R4", "the k-th write, fsync, rename, link or commit of a job fails"
    ) as found:
        kinds, k = set(), 0
        while True:
            k += 1
            for number in numbers[k % len(numbers)]:
                home = tmp_path / f"{k}-{number}"
                faults.begin(k, number)
                ledger = one_job(faults, home)
                nothing_half_written(ledger, home)
                ledger.close()
                found.trials += 1
                kinds.add(faults.failed)
            if faults.failed is None:
                break
        assert {"fsync", "rename", "commit"} <= kinds
        found.unit, found.bounded = f"faults, every k up to {k - 1}", False
        found.result = "every job succeeded with a whole adapter, or failed with a message"
