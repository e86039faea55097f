from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from adapters.errors import (
    AdapterNotFound,
    FileInUse,
    FileNotFound,
    IdempotencyKeyReused,
    InvalidRequest,
    InvalidValue,
    JobNotCancellable,
    JobNotFound,
    LeaseLost,
)
from adapters.ledger import Ledger
from adapters.records import (
    EventKind,
    IdempotencyKey,
    Job,
    JobError,
    JobNote,
    JobStatus,
    NewEvent,
    Phase,
    Progress,
)
from adapters.spec import (
    Dpo,
    LoraSpec,
    OptimizerSpec,
    TrainingSpec,
)
from tests.support.clock import Clock
from tests.support.samples import (
    BASE,
    adapter_directory,
    made_by,
    manifest,
    new_job,
    render,
    weights_of,
)


def submit(ledger: Ledger, adapter: str = "support-bot") -> str:
    return ledger.jobs.submit(new_job(adapter), render=render).body


def claim(
    ledger: Ledger, worker: str = "w1", max_losses: int = 5, *, alone: bool = True
) -> Job | None:
    waits = ledger.jobs.waits(base_model=BASE, alone=alone, max_losses=max_losses)
    job = ledger.jobs.claim(
        worker=worker, base_model=BASE, lease_seconds=30, max_losses=max_losses, alone=alone
    )
    assert waits or job is None  # who looks first never misses one
    return job


def place(ledger: Ledger, job_id: str) -> int | None:
    """The place in the queue, from 1."""
    found = ledger.queue.places([ledger.jobs.get(job_id)]).get(job_id)
    return found.position if found else None


def note(job: Job, step: int = 1, *, checkpoint: int | None = None) -> JobNote:
    progress = Progress(step=step)
    return JobNote(job=job, phase=Phase.TRAINING, progress=progress, checkpoint=checkpoint)


def lose(ledger: Ledger, job_id: str, *, step: int, times: int = 1) -> None:
    """The process dies with the job at that step."""
    for _ in range(times):
        job = claim(ledger)
        assert job.id == job_id
        ledger.jobs.requeue([note(job, step)], reason="it died", lost=True)


def claimed(ledger: Ledger, adapter: str = "support-bot") -> Job:
    submit(ledger, adapter)
    job = claim(ledger)
    assert job is not None
    return job


def publish(ledger: Ledger, job: Job, path: Path, *, promote: bool = True) -> str:
    source = adapter_directory(path / job.id, content=job.id.encode())
    return ledger.registry.publish(job, source, manifest(job), promote=promote).name


# ---- jobs


def test_a_submitted_job_is_queued_with_its_first_event(ledger: Ledger) -> None:
    job = ledger.jobs.get(submit(ledger))
    assert (job.status, job.phase, job.attempt) == (JobStatus.QUEUED, Phase.QUEUED, 0)
    events = ledger.jobs.events(job.id)
    assert [(event.seq, event.message) for event in events] == [
        (1, f"Created fine-tuning job: {job.id}"),
        (2, "Validating training file: file-1"),
        (3, "Files validated, moving job to queued state"),
    ]


def test_jobs_are_claimed_in_the_order_in_which_they_came(ledger: Ledger, clock: Clock) -> None:
    first = submit(ledger)
    clock.tick(1)
    second = submit(ledger)
    assert place(ledger, second) == 2
    assert [claim(ledger).id, claim(ledger).id, claim(ledger)] == [first, second, None]


def test_only_jobs_of_the_workers_base_model_are_claimed(ledger: Ledger) -> None:
    submit(ledger)
    assert ledger.jobs.claim(worker="w", base_model="other", lease_seconds=30, max_losses=5) is None


def test_a_job_whose_worker_went_silent_goes_to_the_next_one(ledger: Ledger, clock: Clock) -> None:
    first = claimed(ledger)
    clock.tick(29)
    assert claim(ledger, "w2") is None
    clock.tick(2)
    second = claim(ledger, "w2")
    assert (second.id, second.attempt, second.worker) == (first.id, 2, "w2")
    assert second.started_at == first.started_at


def test_a_renewed_lease_keeps_the_job(ledger: Ledger, clock: Clock) -> None:
    job = claimed(ledger)
    clock.tick(29)
    assert ledger.jobs.renew([job], lease_seconds=30) == set()
    clock.tick(29)
    assert claim(ledger, "w2") is None


def test_every_write_of_an_outdated_attempt_is_refused(
    ledger: Ledger, clock: Clock, tmp_path: Path
) -> None:
    old = claimed(ledger)
    clock.tick(31)
    new = claim(ledger, "w2")
    error = JobError(code="x", message="y")
    assert ledger.jobs.renew([old], lease_seconds=30) == {old.id}
    assert ledger.jobs.record([note(old, 9)]) == {old.id}
    assert ledger.jobs.lost([old]) == {old.id}
    assert ledger.jobs.lost([new]) == set()
    ledger.jobs.requeue([note(old, 9)], reason="late", lost=True)
    for write in (
        lambda: ledger.jobs.fail(old.id, old.attempt, error),
        lambda: publish(ledger, old, tmp_path),
    ):
        with pytest.raises(LeaseLost):
            write()
    assert ledger.jobs.get(old.id) == new
    assert ledger.registry.list() == []


def test_a_job_that_keeps_losing_its_worker_fails_in_the_end(ledger: Ledger, clock: Clock) -> None:
    job_id = submit(ledger)
    for _ in range(3):
        assert claim(ledger, max_losses=3).id == job_id
        clock.tick(31)
    assert claim(ledger, max_losses=3) is None
    job = ledger.jobs.get(job_id)
    assert (job.status, job.error.code) == (JobStatus.FAILED, "worker_lost")
    assert ledger.jobs.events(job_id)[-1].kind is EventKind.ERROR


def test_only_a_checkpoint_beyond_where_it_was_lost_clears_a_job(ledger: Ledger) -> None:
    lose(ledger, submit(ledger), step=7)
    job = claim(ledger)
    assert (job.losses, job.lost_at, job.suspect) == (1, 7, False)
    for step, losses in ((3, 1), (7, 1), (8, 0)):
        ledger.jobs.record([note(job, step, checkpoint=step)])
        assert ledger.jobs.get(job.id).losses == losses


def test_a_job_is_lost_at_the_furthest_step_that_it_had_reached(ledger: Ledger) -> None:
    job_id = submit(ledger)
    lose(ledger, job_id, step=7)
    lose(ledger, job_id, step=4)
    assert (ledger.jobs.get(job_id).lost_at, ledger.jobs.get(job_id).suspect) == (7, True)
    assert "must get past step 7" in ledger.jobs.events(claim(ledger).id)[-1].message


def test_a_suspect_comes_first_to_an_empty_process_and_is_never_taken_into_another(
    ledger: Ledger, clock: Clock
) -> None:
    older = submit(ledger)
    clock.tick(1)
    suspect = submit(ledger)
    first = claim(ledger)
    assert first.id == older
    lose(ledger, suspect, step=0, times=2)
    ledger.jobs.requeue([note(first)], reason="stopping", lost=False)
    assert ledger.jobs.suspects_wait(base_model=BASE)
    assert claim(ledger, alone=False).id == older
    assert claim(ledger, alone=False) is None
    assert claim(ledger).id == suspect
    assert not ledger.jobs.suspects_wait(base_model=BASE)


def test_nobody_overtakes_a_suspect_that_is_first_in_the_queue(
    ledger: Ledger, clock: Clock
) -> None:
    suspect = submit(ledger)
    lose(ledger, suspect, step=0, times=2)
    clock.tick(1)
    younger = submit(ledger)
    assert claim(ledger, alone=False) is None
    assert claim(ledger).id == suspect
    assert claim(ledger, alone=False).id == younger


def test_a_suspect_without_a_life_left_fails_without_waiting_for_an_empty_process(
    ledger: Ledger, clock: Clock
) -> None:
    job_id = submit(ledger)
    lose(ledger, job_id, step=2, times=3)
    clock.tick(1)
    following = submit(ledger)
    assert claim(ledger, max_losses=3, alone=False).id == following
    assert ledger.jobs.get(job_id).error.code == "worker_lost"


def test_giving_a_job_back_in_good_order_is_no_loss(ledger: Ledger) -> None:
    submit(ledger)
    for _ in range(4):
        job = claim(ledger, max_losses=1)
        ledger.jobs.requeue([note(job)], reason="the trainer is stopping", lost=False)
    assert claim(ledger, max_losses=1).attempt == 5


def test_a_job_that_was_cancelled_is_not_given_back(ledger: Ledger) -> None:
    gone, kept = claimed(ledger), claimed(ledger)
    ledger.jobs.cancel(gone.id)
    ledger.jobs.requeue([note(gone), note(kept)], reason="it died", lost=True)
    assert ledger.jobs.get(gone.id).phase is Phase.ENDED
    assert ledger.jobs.get(kept.id).status is JobStatus.QUEUED


def test_workers_that_are_killed_count_only_against_a_job_that_got_nowhere(
    ledger: Ledger, clock: Clock
) -> None:
    moving = submit(ledger)
    clock.tick(1)
    stuck = submit(ledger, "b")
    for step in (5, 9, 14):
        jobs = {job.id: job for job in (claim(ledger), claim(ledger))}
        ledger.jobs.record([note(jobs[moving], step), note(jobs[stuck], 5)])
        assert ledger.jobs.take_back("w1") == 2
    assert (ledger.jobs.get(moving).losses, ledger.jobs.get(moving).lost_at) == (0, 14)
    assert (ledger.jobs.get(stuck).losses, ledger.jobs.get(stuck).lost_at) == (2, 5)
    # The same where nobody took them back and the leases ran out.
    assert claim(ledger).id == stuck
    clock.tick(31)
    assert claim(ledger, "w2", alone=False).id == moving
    assert claim(ledger, "w2").losses == 3


def test_a_restarted_worker_takes_back_what_it_held(ledger: Ledger) -> None:
    job = claimed(ledger)
    assert ledger.jobs.take_back("somebody else") == 0
    assert ledger.jobs.take_back("w1") == 1
    again = claim(ledger)
    assert (again.id, again.attempt, again.losses) == (job.id, 2, 1)


def test_many_workers_claiming_at_once_get_different_jobs(ledger: Ledger) -> None:
    ids = {submit(ledger) for _ in range(12)}
    with ThreadPoolExecutor(6) as pool:
        jobs = list(pool.map(lambda n: claim(ledger, f"w{n}"), range(14)))
    assert {job.id for job in jobs if job} == ids
    assert jobs.count(None) == 2


def test_events_are_numbered_without_gaps_whoever_writes_them(ledger: Ledger) -> None:
    job = claimed(ledger)

    def write(n: int) -> None:
        event = NewEvent(kind=EventKind.METRICS, message=str(n), data={"n": n})
        ledger.jobs.record([replace(note(job, n), events=(event,))])

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(20)))
    events = ledger.jobs.events(job.id)
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    assert {event.data["n"] for event in events if event.kind is EventKind.METRICS} == set(
        range(20)
    )
    assert [event.seq for event in ledger.jobs.events(job.id, after=5, limit=2)] == [6, 7]


def test_a_requeued_job_waits_and_then_continues_as_the_next_attempt(
    ledger: Ledger, clock: Clock
) -> None:
    job = claimed(ledger)
    ledger.jobs.requeue([note(job)], reason="the training process ended", lost=True, delay=10)
    assert ledger.jobs.get(job.id).status is JobStatus.QUEUED
    assert claim(ledger) is None
    clock.tick(10)
    assert claim(ledger).attempt == 2


def test_cancelling_ends_a_queued_job_at_once(ledger: Ledger) -> None:
    job_id = submit(ledger)
    job = ledger.jobs.cancel(job_id)
    assert (job.status, job.phase) == (JobStatus.CANCELLED, Phase.ENDED)
    assert claim(ledger) is None
    assert ledger.jobs.cancel(job_id) == job


def test_cancelling_a_running_job_takes_it_from_its_worker(ledger: Ledger) -> None:
    job = claimed(ledger)
    cancelled = ledger.jobs.cancel(job.id)
    assert (cancelled.status, cancelled.phase) == (JobStatus.CANCELLED, Phase.STOPPING)
    assert ledger.jobs.renew([job], lease_seconds=30) == {job.id}
    ledger.jobs.requeue([note(job)], reason="it has stopped", lost=False)
    stopped = ledger.jobs.get(job.id)
    assert (stopped.status, stopped.phase) == (JobStatus.CANCELLED, Phase.ENDED)


def test_a_job_that_has_ended_cannot_be_cancelled(ledger: Ledger) -> None:
    job = claimed(ledger)
    ledger.jobs.fail(job.id, job.attempt, JobError(code="loss_diverged", message="NaN"))
    with pytest.raises(JobNotCancellable, match="already failed"):
        ledger.jobs.cancel(job.id)


def test_an_unknown_job_is_not_found(ledger: Ledger) -> None:
    with pytest.raises(JobNotFound):
        ledger.jobs.get("ftjob-none")
    with pytest.raises(JobNotFound):
        ledger.jobs.cancel("ftjob-none")


def test_pages_of_jobs_come_newest_first_and_meet(ledger: Ledger, clock: Clock) -> None:
    ids = []
    for n in range(7):
        ids.append(submit(ledger))
        clock.tick(n % 2)  # some share their second
    pages, after = [], None
    while page := ledger.jobs.list(after=after, limit=3):
        pages.append([job.id for job in page])
        after = page[-1].id
    met = [job_id for page in pages for job_id in page]
    assert met == [job.id for job in ledger.jobs.list(limit=100)]
    assert set(met) == set(ids)


# ---- idempotency


def test_the_same_key_twice_makes_one_job(ledger: Ledger) -> None:
    key = IdempotencyKey(key="k", request_digest="d")
    replies = [ledger.jobs.submit(new_job(), key=key, render=render) for _ in range(2)]
    assert replies[0] == replies[1] == ledger.jobs.find_reply(key)
    assert len(ledger.jobs.list()) == 1


def test_the_same_key_at_the_same_time_makes_one_job(ledger: Ledger) -> None:
    key = IdempotencyKey(key="k", request_digest="d")
    with ThreadPoolExecutor(8) as pool:
        replies = pool.map(
            lambda _: ledger.jobs.submit(new_job(), key=key, render=render), range(16)
        )
    assert len({reply.body for reply in replies}) == 1
    assert len(ledger.jobs.list()) == 1


def test_a_key_with_another_request_is_refused(ledger: Ledger) -> None:
    ledger.jobs.submit(new_job(), key=IdempotencyKey(key="k", request_digest="1"), render=render)
    with pytest.raises(IdempotencyKeyReused):
        ledger.jobs.submit(
            new_job(), key=IdempotencyKey(key="k", request_digest="2"), render=render
        )


def test_a_key_is_forgotten_after_a_day(ledger: Ledger, clock: Clock) -> None:
    key = IdempotencyKey(key="k", request_digest="1")
    ledger.jobs.submit(new_job(), key=key, render=render)
    clock.tick(24 * 3600 + 1)
    assert ledger.jobs.find_reply(key) is None
    ledger.jobs.submit(new_job(), key=replace(key, request_digest="2"), render=render)
    assert len(ledger.jobs.list()) == 2


# ---- versions


def test_publishing_settles_the_job_and_moves_live_together(ledger: Ledger, tmp_path: Path) -> None:
    job = claimed(ledger)
    name = publish(ledger, job, tmp_path)
    settled = ledger.jobs.get(job.id)
    assert (settled.status, settled.fine_tuned_model) == (JobStatus.SUCCEEDED, "support-bot@1")
    adapter = ledger.registry.get("support-bot")
    assert adapter.live.name == name == "support-bot@1"
    directory = ledger.registry.directory(adapter.live)
    assert (directory / "adapter_model.safetensors").read_bytes() == weights_of(job.id.encode())
    messages = [event.message for event in ledger.jobs.events(job.id)]
    assert f"New fine-tuned model created: ft:tiny-base:graft:support-bot:{job.id[-8:]}" in messages
    assert messages[-1] == "The job has successfully completed"


def test_what_was_still_to_say_is_written_with_the_version(ledger: Ledger, tmp_path: Path) -> None:
    job = claimed(ledger)
    event = NewEvent(kind=EventKind.METRICS, message="the last step")
    last = JobNote(
        job=job, phase=Phase.PUBLISHING, progress=Progress(percent=100.0), events=(event,)
    )
    source = adapter_directory(tmp_path / "made")
    ledger.registry.publish(job, source, manifest(job), promote=True, note=last)
    settled = ledger.jobs.get(job.id)
    assert (settled.phase, settled.progress.percent) == (Phase.ENDED, 100.0)
    messages = [event.message for event in ledger.jobs.events(job.id)]
    assert messages.index("the last step") < messages.index(
        f"New fine-tuned model created: {made_by(job)}"
    )


def test_a_version_is_found_by_its_name(ledger: Ledger, tmp_path: Path) -> None:
    publish(ledger, claimed(ledger), tmp_path)
    assert ledger.registry.version("support-bot@1").number == 1
    for name in ("support-bot@2", "support-bot", "nobody@1"):
        with pytest.raises(AdapterNotFound):
            ledger.registry.version(name)


def test_a_job_publishes_exactly_once(ledger: Ledger, tmp_path: Path) -> None:
    job = claimed(ledger)
    publish(ledger, job, tmp_path / "a")
    with pytest.raises(LeaseLost):
        publish(ledger, job, tmp_path / "b")
    assert len(ledger.registry.get("support-bot").versions) == 1


def test_a_version_that_does_not_pass_its_gate_leaves_live_where_it_was(
    ledger: Ledger, tmp_path: Path
) -> None:
    publish(ledger, claimed(ledger), tmp_path)
    publish(ledger, claimed(ledger), tmp_path, promote=False)
    adapter = ledger.registry.get("support-bot")
    assert [version.number for version in adapter.versions] == [1, 2]
    assert adapter.live.number == 1
    assert ledger.aliases.promote("support-bot", 2).live.number == 2


def test_a_cancelled_job_publishes_nothing(ledger: Ledger, tmp_path: Path) -> None:
    job = claimed(ledger)
    ledger.jobs.cancel(job.id)
    with pytest.raises(LeaseLost):
        publish(ledger, job, tmp_path)
    assert ledger.registry.list() == []


def test_numbers_are_never_given_out_twice(ledger: Ledger, tmp_path: Path) -> None:
    publish(ledger, claimed(ledger), tmp_path)
    ledger.registry.delete("support-bot")
    with pytest.raises(AdapterNotFound):
        ledger.registry.get("support-bot")
    assert publish(ledger, claimed(ledger), tmp_path) == "support-bot@2"
    assert [v.number for v in ledger.registry.get("support-bot").versions] == [2]


def test_many_publishers_at_once_get_different_numbers(ledger: Ledger, tmp_path: Path) -> None:
    jobs = [claimed(ledger) for _ in range(6)]
    with ThreadPoolExecutor(6) as pool:
        names = set(pool.map(lambda job: publish(ledger, job, tmp_path), jobs))
    assert names == {f"support-bot@{n}" for n in range(1, 7)}


def test_changes_tell_what_a_cache_has_to_learn(ledger: Ledger, tmp_path: Path) -> None:
    assert ledger.registry.changes(since=0) == (0, [])
    publish(ledger, claimed(ledger), tmp_path)
    seen, changed = ledger.registry.changes(since=0)
    assert [adapter.name for adapter in changed] == ["support-bot"]
    assert ledger.registry.changes(since=seen) == (seen, [])
    ledger.registry.delete("support-bot")
    later, [gone] = ledger.registry.changes(since=seen)
    assert (later > seen, gone.versions, gone.aliases) == (True, (), {})


def test_a_name_resolves_to_the_version_that_it_means_now(ledger: Ledger, tmp_path: Path) -> None:
    publish(ledger, claimed(ledger), tmp_path)
    publish(ledger, claimed(ledger), tmp_path, promote=False)
    resolve = ledger.registry.resolve
    assert resolve("support-bot").name == "support-bot@1"
    assert resolve("support-bot@live").name == "support-bot@1"
    assert resolve("support-bot@2").name == "support-bot@2"
    ledger.aliases.promote("support-bot", 2)
    assert resolve("support-bot").name == "support-bot@2"


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("nobody", "No adapter is called 'nobody'"),
        ("nobody@1", "No adapter is called 'nobody'"),
        ("support-bot", "has no live version. Its versions: support-bot@2"),
        ("support-bot@1", "has no 'support-bot@1'. Its versions: support-bot@2"),
        ("support-bot@3", "has no 'support-bot@3'"),
        ("support-bot@" + "9" * 5000, "has no"),
        ("support-bot@canary", "has no 'support-bot@canary'"),
        ("\ud800", "No adapter is called"),
        ("", "No adapter is called ''"),
    ],
)
def test_a_name_of_nothing_living_does_not_resolve(
    ledger: Ledger, tmp_path: Path, name: str, says: str
) -> None:
    for _ in range(2):
        publish(ledger, claimed(ledger), tmp_path, promote=False)
    ledger.registry.delete_version("support-bot", 1)
    with pytest.raises(AdapterNotFound) as raised:
        ledger.registry.resolve(name)
    assert says in raised.value.message


def test_an_adapter_that_is_deleted_does_not_resolve(ledger: Ledger, tmp_path: Path) -> None:
    publish(ledger, claimed(ledger), tmp_path)
    ledger.registry.delete("support-bot")
    for name in ("support-bot", "support-bot@1"):
        with pytest.raises(AdapterNotFound):
            ledger.registry.resolve(name)


def test_what_a_job_computes_is_kept_whatever_its_method(ledger: Ledger) -> None:
    spec = replace(
        TrainingSpec(),
        method=Dpo(beta=0.3),
        parent="support-bot@1",
        lora=LoraSpec(rslora=True),
        optimizer=OptimizerSpec(lora_plus_ratio=16),
    )
    job_id = ledger.jobs.submit(replace(new_job(), spec=spec), render=render).body
    assert ledger.jobs.get(job_id).spec == spec


def test_a_version_that_an_alias_needs_cannot_be_deleted(ledger: Ledger, tmp_path: Path) -> None:
    publish(ledger, claimed(ledger), tmp_path)
    publish(ledger, claimed(ledger), tmp_path)
    with pytest.raises(InvalidRequest, match="'live' of support-bot"):
        ledger.registry.delete_version("support-bot", 2)
    ledger.registry.delete_version("support-bot", 1)
    assert [v.number for v in ledger.registry.get("support-bot").versions] == [2]


def test_files_of_deleted_versions_are_purged_only_after_a_while(
    ledger: Ledger, clock: Clock, tmp_path: Path
) -> None:
    publish(ledger, claimed(ledger), tmp_path)
    [version] = ledger.registry.delete("support-bot").versions
    assert ledger.registry.purge(older_than=60) == 0
    assert ledger.registry.directory(version).exists()
    clock.tick(61)
    assert ledger.registry.purge(older_than=60) == 1
    assert ledger.registry.purge(older_than=60) == 0


def test_an_adapter_belongs_to_one_base_model(ledger: Ledger, tmp_path: Path) -> None:
    publish(ledger, claimed(ledger), tmp_path)
    with pytest.raises(InvalidValue, match="belongs to the base model"):
        ledger.jobs.submit(new_job(base_model="other"), render=render)


# ---- files


def test_a_file_is_kept_under_its_digest_and_given_back(ledger: Ledger, tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_bytes(b"hello")
    file = ledger.files.add(path, filename="data.jsonl", purpose="fine-tune")
    path.unlink()
    assert ledger.files.get(file.id) == file
    assert ledger.files.path(file.id).read_bytes() == b"hello"
    assert list(ledger.files.list()) == [file]


def test_deleting_a_file_leaves_another_with_the_same_bytes(ledger: Ledger, tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_bytes(b"hello")
    one, two = (ledger.files.add(path, filename="x", purpose="fine-tune") for _ in range(2))
    stored = ledger.files.path(one.id)
    ledger.files.delete(one.id)
    assert not stored.exists()
    assert ledger.files.path(two.id).read_bytes() == b"hello"
    with pytest.raises(FileNotFound):
        ledger.files.get(one.id)


def test_a_file_that_a_live_job_needs_cannot_be_deleted(ledger: Ledger, tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_bytes(b"hello")
    file = ledger.files.add(path, filename="x", purpose="fine-tune")
    job = replace(new_job(), training_file=file.id)
    ledger.jobs.submit(job, render=render)
    with pytest.raises(FileInUse):
        ledger.files.delete(file.id)
    ledger.jobs.cancel(job.id)
    ledger.files.delete(file.id)
