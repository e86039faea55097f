"""R5: the disk is full, really: a file system of 24 MB in memory, filled to the last byte."""

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import pytest

from adapters.errors import StorageFull
from adapters.ledger import Ledger, open_ledger
from adapters.records import JobStatus
from adapters.settings import LedgerSettings
from tests.chaos.sizes import Chaos
from tests.support.fake_process import FakeProcess
from tests.support.in_process import answering
from tests.support.samples import new_job, render
from tests.unit.trainer.workshop import finish, make_worker, submit, work_until

MEBIBYTE = 1 << 20


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A home on a file system of its own; only root may make one, and a container may forbid even that."""
    home = tmp_path / "small"
    home.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(home)]
    done = subprocess.run(mount, check=False, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no file system may be mounted here: {done.stderr.strip()}")
    yield home
    subprocess.run(["umount", "--lazy", str(home)], check=True)


def _write_on(file: BinaryIO, piece: int) -> None:
    while True:
        file.write(b"\0" * piece)


class Ballast:
    """A file that takes all the room there is."""

    def __init__(self, home: Path) -> None:
        self._path = home / "ballast"

    def fill(self) -> None:
        with self._path.open("ab", buffering=0) as file:
            for piece in (MEBIBYTE, 4096):
                with pytest.raises(OSError, match="No space left"):
                    _write_on(file, piece)

    def free(self) -> None:
        self._path.unlink()


def test_an_upload_onto_a_full_disk_is_told_so_and_the_next_one_after_it_is_taken(
    small: Path, chaos: Chaos
) -> None:
    ballast = Ballast(small)
    upload = {"file": ("t.jsonl", b'{"input": "a", "target": "b"}\n' * 200_000)}
    with chaos.experiment("R5 upload", "the disk is full during an upload") as found:
        with answering(small) as client:
            ballast.fill()
            for path, form in (
                ("/v1/files", {"purpose": "fine-tune"}),
                ("/finetune", {"name": "x"}),
            ):
                files = {"file" if path == "/v1/files" else "data": upload["file"]}
                refused = client.post(path, data=form, files=files)
                assert refused.status_code == 507, refused.text
                assert refused.json()["error"]["code"] == "storage_full"
                assert int(refused.headers["retry-after"]) >= 1
            assert client.get("/healthz").status_code == 200
            assert client.get("/v1/files").json()["data"] == []
            ballast.free()
            taken = client.post("/v1/files", data={"purpose": "fine-tune"}, files=upload)
            assert taken.status_code == 200, taken.text
            assert not list((small / "incoming").glob("*/*"))
        found.trials, found.unit, found.bounded = 2, "routes", False
        found.result = "507 with Retry-After, goes on after room is made, without a restart"


def submit_until_refused(ledger: Ledger, ids: list[str]) -> None:
    """What is left of the last page is filled first."""
    while len(ids) < 10_000:
        ids.append(ledger.jobs.submit(new_job(), render=render).body)


def test_a_database_on_a_full_disk_says_so_and_goes_on_when_there_is_room(
    small: Path, chaos: Chaos
) -> None:
    ballast, ids = Ballast(small), []
    ledger = open_ledger(LedgerSettings(home=small))
    with chaos.experiment("R5 database", "the disk is full during a commit") as found:
        ballast.fill()
        with pytest.raises(StorageFull) as told:
            submit_until_refused(ledger, ids)
        assert (told.value.status, told.value.code) == (507, "storage_full")
        assert len(ledger.jobs.list(limit=100_000)) == len(ids)
        ballast.free()
        ledger.jobs.submit(new_job(), render=render)
        assert len(ledger.jobs.list(limit=100_000)) == len(ids) + 1
        found.trials, found.unit, found.bounded = 1, "commit", False
        found.result = "refused as a whole, goes on after room is made"
    ledger.close()


def test_a_job_that_ends_on_a_full_disk_is_published_when_there_is_room(
    small: Path, chaos: Chaos
) -> None:
    ballast, home = Ballast(small), small
    ledger = open_ledger(LedgerSettings(home=home))
    process = FakeProcess()
    worker = make_worker(ledger, process, home, max_losses=10**6)
    with chaos.experiment("R5 checkpoint", "the disk is full from a job's first step on") as found:
        job_id = submit(ledger, home)
        work_until(worker, lambda: bool(process.training))
        ballast.fill()
        for _ in range(200):
            try:
                worker.turn()
            except (
                OSError
            ):  # the fake writes the adapter itself; the real process reports a failure
                process.kill()
        assert ledger.jobs.get(job_id).status in {JobStatus.QUEUED, JobStatus.RUNNING}
        assert ledger.registry.list() == []
        ballast.free()
        assert finish(worker, ledger, job_id).status is JobStatus.SUCCEEDED
        [adapter] = ledger.registry.list()
        assert (ledger.registry.directory(adapter.live) / "adapter_model.safetensors").is_file()
        found.trials, found.unit, found.bounded = 1, "job", False
        found.result = "it waits, and succeeds once there is room"
    ledger.close()
