from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from adapters.errors import (
    AdapterNotFound,
    InvalidRequest,
    InvalidValue,
    JobNotFound,
    LeaseLost,
)
from adapters.ledger import Ledger
from adapters.manifest import Manifest
from adapters.records import (
    Job,
    JobError,
    JobStatus,
)
from adapters.weights import Checkpoint
from tests.conformance.test_ledger import claim, claimed, note, publish
from tests.support.clock import Clock
from tests.support.samples import adapter_directory, manifest, weights_of


def at(job: Job, step: int, *, best: int | None = None) -> Manifest:
    plain = manifest(job)
    ended = replace(plain.result, steps=step, best_step=best or step, train_loss=1.0 / step)
    return replace(plain, result=ended)


def keep(ledger: Ledger, job: Job, path: Path, *steps: int) -> None:
    for step in steps:
        content = f"{job.id} {step}".encode()
        source = adapter_directory(path / f"{job.id}-{job.attempt}-{step}", content=content)
        ledger.checkpoints.keep(job, source, at(job, step))


def steps(ledger: Ledger, job: Job) -> list[int]:
    return [one.step for one in ledger.checkpoints.list(job.id)]


def files(ledger: Ledger, checkpoint: Checkpoint) -> bytes:
    directory = ledger.registry.directory(checkpoint)
    return (directory / "adapter_model.safetensors").read_bytes()


def test_a_checkpoint_is_found_by_its_name_and_tells_what_it_is(
    ledger: Ledger, tmp_path: Path
) -> None:
    job = claimed(ledger)
    keep(ledger, job, tmp_path, 4)
    [checkpoint] = ledger.checkpoints.list(job.id)
    assert checkpoint.name == f"ft:tiny-base:graft:support-bot:{job.id[-8:]}:ckpt-step-4"
    assert checkpoint.id.startswith("ftckpt_")
    assert checkpoint.metrics == {
        "step": 4,
        "train_loss": 0.25,
        "valid_loss": 1.0,
        "full_valid_loss": 1.0,
        "base_valid_loss": 2.0,
    }
    assert ledger.checkpoints.find(checkpoint.name) == checkpoint
    assert files(ledger, checkpoint) == weights_of(f"{job.id} 4".encode())
    assert ledger.weights(checkpoint.name) == ledger.registry.directory(checkpoint)
    told = ledger.jobs.events(job.id)[-1]
    assert (told.kind, told.message) == ("checkpoint", "Checkpoint created at step 4")
    assert told.data["fine_tuned_model_checkpoint"] == checkpoint.name


def test_only_the_last_three_of_a_job_are_kept_and_files_go_later(
    ledger: Ledger, clock: Clock, tmp_path: Path
) -> None:
    job = claimed(ledger)
    keep(ledger, job, tmp_path, 1, 2, 3)
    oldest = ledger.checkpoints.list(job.id)[-1]
    before, _ = ledger.registry.changes(since=0)
    keep(ledger, job, tmp_path, 4)
    assert steps(ledger, job) == [4, 3, 2]
    assert ledger.registry.changes(since=0)[0] > before  # so that copies of the ledger are renewed
    with pytest.raises(AdapterNotFound):
        ledger.checkpoints.find(oldest.name)
    # A job that is to continue it, and an engine that reads it, still can.
    assert ledger.weights(oldest.name) == ledger.registry.directory(oldest)
    assert ledger.checkpoints.purge(older_than=60) == 0
    clock.tick(61)
    assert ledger.checkpoints.purge(older_than=60) == 1
    with pytest.raises(AdapterNotFound):
        ledger.weights(oldest.name)
    assert all(files(ledger, one) for one in ledger.checkpoints.list(job.id))
    assert ledger.checkpoints.purge(older_than=60) == 0


def test_pages_follow_each_other_newest_first(ledger: Ledger, tmp_path: Path) -> None:
    job, other = claimed(ledger), claimed(ledger)
    keep(ledger, job, tmp_path, 1, 2, 3)
    keep(ledger, other, tmp_path, 9)
    first = ledger.checkpoints.list(job.id, limit=2)
    rest = ledger.checkpoints.list(job.id, limit=2, after=first[-1].id)
    assert [one.step for one in (*first, *rest)] == [3, 2, 1]
    with pytest.raises(InvalidValue):
        ledger.checkpoints.list(other.id, after=first[0].id)
    with pytest.raises(JobNotFound):
        ledger.checkpoints.list("ftjob-none")


def test_who_does_not_hold_the_job_keeps_nothing(
    ledger: Ledger, clock: Clock, tmp_path: Path
) -> None:
    old = claimed(ledger)
    clock.tick(31)
    new = claim(ledger, "w2")
    with pytest.raises(LeaseLost):
        keep(ledger, old, tmp_path, 1)
    ledger.jobs.cancel(new.id)
    with pytest.raises(LeaseLost):
        keep(ledger, new, tmp_path, 1)
    assert steps(ledger, new) == []


def test_what_was_on_its_way_when_a_job_was_paused_is_kept(ledger: Ledger, tmp_path: Path) -> None:
    job = claimed(ledger)
    ledger.jobs.pause(job.id)
    keep(ledger, job, tmp_path, 1)
    ledger.jobs.requeue([note(job)], reason="it was dropped", lost=False)
    with pytest.raises(LeaseLost):
        keep(ledger, job, tmp_path, 2)
    assert steps(ledger, job) == [1]


def test_a_step_that_a_later_attempt_repeats_is_kept_once(ledger: Ledger, tmp_path: Path) -> None:
    job = claimed(ledger)
    keep(ledger, job, tmp_path, 1, 2)
    first = ledger.checkpoints.list(job.id)
    ledger.jobs.requeue([note(job)], reason="it died", lost=True)
    keep(ledger, claim(ledger), tmp_path, 2)
    assert ledger.checkpoints.list(job.id) == first
    said = [event.message for event in ledger.jobs.events(job.id)]
    assert said.count("Checkpoint created at step 2") == 1


def test_the_last_step_is_a_checkpoint_too_with_the_files_of_the_version(
    ledger: Ledger, clock: Clock, tmp_path: Path
) -> None:
    job = claimed(ledger)
    keep(ledger, job, tmp_path, 1, 2)
    publish(ledger, job, tmp_path)  # of step 3, which was the best
    last = ledger.checkpoints.list(job.id)[0]
    version = ledger.registry.version("support-bot@1")
    assert (last.step, last.digest) == (3, version.digest)
    assert steps(ledger, job) == [3, 2, 1]
    publish(ledger, claimed(ledger), tmp_path)
    ledger.registry.delete_version("support-bot", 1)
    assert steps(ledger, job) == []
    clock.tick(100)
    # Whoever goes last takes the files along.
    assert ledger.registry.purge(older_than=60) == 1
    assert ledger.registry.directory(last).exists()
    assert ledger.checkpoints.purge(older_than=60) == 3
    assert not (tmp_path / "artifacts" / "versions" / last.digest).exists()


def test_the_files_of_a_version_outlive_the_checkpoint_that_shares_them(
    ledger: Ledger, tmp_path: Path
) -> None:
    job = claimed(ledger)
    publish(ledger, job, tmp_path)
    other = claimed(ledger, "other")
    ledger.registry.publish(
        other,
        adapter_directory(tmp_path / "same", content=job.id.encode()),
        at(other, 3),
        promote=True,
    )
    ledger.registry.delete("other")
    ledger.checkpoints.purge(older_than=-1)
    ledger.registry.purge(older_than=-1)
    assert ledger.registry.directory(ledger.registry.version("support-bot@1")).exists()


def test_a_version_that_is_not_of_the_last_step_is_no_checkpoint(
    ledger: Ledger, tmp_path: Path
) -> None:
    job = claimed(ledger)
    source = adapter_directory(tmp_path / "made")
    ledger.registry.publish(job, source, at(job, 5, best=2), promote=True)
    assert steps(ledger, job) == []


def test_the_checkpoints_of_an_adapter_go_with_it(ledger: Ledger, tmp_path: Path) -> None:
    job, other = claimed(ledger), claimed(ledger, "other")
    keep(ledger, job, tmp_path, 1)
    keep(ledger, other, tmp_path, 1)
    publish(ledger, job, tmp_path)
    ledger.registry.delete("support-bot")
    assert (steps(ledger, job), steps(ledger, other)) == ([], [1])


@pytest.mark.parametrize("end", [JobStatus.FAILED, JobStatus.CANCELLED])
def test_those_of_a_job_that_came_to_nothing_stay_for_a_day(
    ledger: Ledger, clock: Clock, tmp_path: Path, end: JobStatus
) -> None:
    job = claimed(ledger)
    keep(ledger, job, tmp_path, 1)
    if end is JobStatus.FAILED:
        ledger.jobs.fail(job.id, job.attempt, JobError(code="x", message="y"))
    else:
        ledger.jobs.cancel(job.id)
    clock.tick(23 * 3600)
    ledger.checkpoints.purge(older_than=60)
    assert steps(ledger, job) == [1]
    clock.tick(2 * 3600)
    ledger.checkpoints.purge(older_than=60)
    assert steps(ledger, job) == []


@pytest.mark.parametrize(
    "name", ["ft:x:graft:y:12345678:ckpt-step-1", "ft:ä:graft:y:12345678:ckpt-step-1"]
)
def test_an_unknown_name_is_not_found(ledger: Ledger, name: str) -> None:
    with pytest.raises(AdapterNotFound):
        ledger.checkpoints.find(name)


def test_who_keeps_publishes_promotes_and_deletes_at_once_waits_for_nobody_for_ever(
    ledger: Ledger, tmp_path: Path
) -> None:
    jobs = [claimed(ledger, f"shared-{number % 2}") for number in range(20)]

    def work(job: Job) -> None:
        with suppress(AdapterNotFound, InvalidRequest):  # where another was faster
            keep(ledger, job, tmp_path, 1, 2, 3, 4)
            publish(ledger, job, tmp_path)
            ledger.aliases.promote(job.adapter, 1)
            ledger.registry.delete_version(job.adapter, 2)
            ledger.registry.delete(job.adapter)
            ledger.checkpoints.purge(older_than=3600)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, jobs))
    assert all(ledger.jobs.get(job.id).status is JobStatus.SUCCEEDED for job in jobs)
