"""A process is killed with -9 at random moments while it works on the ledger; what was answered is still there."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from adapters.ledger import open_ledger
from adapters.records import JobStatus
from adapters.settings import LedgerSettings
from adapters.webhooks import NewEndpoint

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


@pytest.mark.parametrize("seed", range(6))
def test_nothing_that_was_answered_is_lost_and_nothing_is_half_done(
    seed: int, tmp_path: Path
) -> None:
    said: list[list[str]] = []
    ledger = open_ledger(LedgerSettings(home=tmp_path))
    listener = NewEndpoint(id="we_1", name="x", url="https://hooks.example", secret="whsec_")
    ledger.webhooks.add(listener)
    ledger.close()
    for turn in range(3):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert writer.stdout is not None
        said.append(writer.stdout.readline().split())
        time.sleep(0.02 + 0.013 * seed + 0.007 * turn)
        writer.send_signal(signal.SIGKILL)
        said += [line.split() for line in writer.stdout.read().splitlines()]
        writer.wait()
        writer.stdout.close()
    ledger = open_ledger(LedgerSettings(home=tmp_path))
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
        assert weights.read_bytes() == str(version.job_id).encode()
    ledger.close()
