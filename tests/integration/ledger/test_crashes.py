"""A process is killed with -9 at random moments while it works on the ledger; what was answered is still there."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from adapters.files import UploadStatus
from adapters.ledger import open_ledger
from adapters.records import JobStatus
from adapters.settings import LedgerSettings
from adapters.webhooks import NewEndpoint
from tests.support.samples import weights_of

ROOT = Path(__file__).parents[3]
WRITER = """
import sys
from pathlib import Path
from adapters.ledger import open_ledger
from adapters.settings import LedgerSettings
from tests.support.samples import adapter_directory, manifest, new_job, render

home = Path(sys.argv[1])
ledger = open_ledger(LedgerSettings(home=home))
while True:
    job_id = ledger.jobs.submit(new_job(), render=render).body
    print("submitted", job_id, flush=True)
    job = ledger.jobs.claim(worker="w", base_model="tiny-base", lease_seconds=0, max_losses=10**6)
    source = adapter_directory(home / "made" / f"{job.id}-{job.attempt}", content=job.id.encode())
    version = ledger.registry.publish(job, source, manifest(job), promote=True)
    print("published", job.id, version.name, flush=True)
"""

BRINGER = """
import sys
from pathlib import Path
from adapters.files import NewUpload
from adapters.ledger import open_ledger
from adapters.records import Reply
from adapters.settings import LedgerSettings

home = Path(sys.argv[1])
ledger = open_ledger(LedgerSettings(home=home))
new = NewUpload(bytes=2, filename="f", mime_type="text/plain", purpose="evals")
brought = home / "brought"
while True:
    upload_id = ledger.uploads.create(new, render=lambda upload: Reply(status=200, body=upload.id)).body
    parts = []
    for content in (b"a", b"b"):
        brought.write_bytes(content)
        parts.append(ledger.uploads.add_part(upload_id, brought).id)
        print("part", upload_id, parts[-1], flush=True)
    done = ledger.uploads.complete(upload_id, parts, judge=lambda path: None)
    print("completed", upload_id, done.file.id, *parts, flush=True)
"""


def killed(program: str, home: Path, *, after: float) -> list[list[str]]:
    """What a process has said, line by line, when it is killed that many seconds after its first line."""
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(home)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    said = [process.stdout.readline().split()]
    time.sleep(after)
    process.send_signal(signal.SIGKILL)
    said += [line.split() for line in process.stdout.read().splitlines()]
    process.wait()
    process.stdout.close()
    return said


@pytest.mark.parametrize("seed", range(4))
def test_no_part_and_no_file_that_was_answered_for_is_lost(
    seed: int, settings: LedgerSettings
) -> None:
    said = [
        line
        for turn in range(3)
        for line in killed(BRINGER, settings.home, after=0.02 + 0.011 * seed + 0.007 * turn)
    ]
    ledger = open_ledger(settings)
    pending: dict[str, list[str]] = {}
    for word, upload_id, *ids in (line for line in said if len(line) > 2):
        upload = ledger.uploads.get(upload_id)
        if word == "completed" and len(ids) == 3:
            assert upload.status is UploadStatus.COMPLETED
            assert upload.file is not None
            assert upload.file.id == ids[0]
            again = ledger.uploads.complete(upload_id, ids[1:], judge=lambda _: None)
            assert again == upload
        elif upload.status is UploadStatus.PENDING:
            pending.setdefault(upload_id, []).append(ids[0])
    for upload_id, parts in pending.items():
        if len(parts) == 2:  # it was killed before it was told of the completion, and asks again
            done = ledger.uploads.complete(upload_id, parts, judge=lambda _: None)
            assert done.status is UploadStatus.COMPLETED
        else:
            twice = [parts[0], parts[0]]
            done = ledger.uploads.complete(upload_id, twice, judge=lambda _: None)
            assert done.file is not None
            assert ledger.files.path(done.file.id).read_bytes() == b"aa"
            ledger.files.delete(done.file.id)
    for file in ledger.files.list():
        assert ledger.files.path(file.id).read_bytes() == b"ab"
    ledger.close()


@pytest.mark.parametrize("seed", range(6))
def test_nothing_that_was_answered_is_lost_and_nothing_is_half_done(
    seed: int, settings: LedgerSettings
) -> None:
    said: list[list[str]] = []
    ledger = open_ledger(settings)
    listener = NewEndpoint(id="we_1", name="x", url="https://hooks.example", secret="whsec_")
    ledger.webhooks.add(listener)
    ledger.close()
    for turn in range(3):
        said += killed(WRITER, settings.home, after=0.02 + 0.013 * seed + 0.007 * turn)
    ledger = open_ledger(settings)
    jobs = {job.id: job for job in ledger.jobs.list(limit=100_000)}
    for word, job_id, *version in (line for line in said if len(line) > 1):
        assert job_id in jobs
        if word == "published":
            assert jobs[job_id].fine_tuned_model == version[0]
    adapter = ledger.registry.list()[0] if ledger.registry.list() else None
    versions = adapter.versions if adapter else ()
    settled = [job for job in jobs.values() if job.status is JobStatus.SUCCEEDED]
    assert {job.fine_tuned_model for job in settled} == {version.name for version in versions}
    assert len({version.job_id for version in versions}) == len(versions)
    told = ledger.webhooks.deliveries(listener.id, limit=100_000)
    assert sorted(one.announcement.news.job_id for one in told) == sorted(job.id for job in settled)
    for version in versions:
        weights = ledger.registry.directory(version) / "adapter_model.safetensors"
        assert weights.read_bytes() == weights_of(str(version.job_id).encode())
    ledger.close()
