"""What the ledger does for clients of OpenAI's: repeated sendings, failures from the start, filters, names, bounds."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from adapters.demand import Place, Sending
from adapters.errors import AdapterNotFound, QueueFull
from adapters.ledger import Ledger
from adapters.records import (
    EventKind,
    Job,
    JobError,
    JobNote,
    JobStatus,
    Phase,
    Progress,
)
from tests.conformance.test_ledger import claim, claimed, publish, submit
from tests.support.clock import Clock
from tests.support.samples import made_by, new_job, render


def send(ledger: Ledger, retries: int, *, digest: str = "d", arrived_at: float = 0.0) -> str:
    sending = Sending(digest=digest, retries=retries, arrived_at=arrived_at)
    return ledger.jobs.submit(new_job(), sending=sending, render=render).body


# ---- the same request once more


def test_a_repetition_is_answered_with_the_job_that_the_first_made(ledger: Ledger) -> None:
    first = send(ledger, 0)
    assert send(ledger, 1) == send(ledger, 2) == first
    assert ledger.jobs.find_sent(Sending(digest="d", retries=1, arrived_at=0)).id == first
    assert len(ledger.jobs.list()) == 1


def test_asking_twice_for_the_same_makes_two_jobs(ledger: Ledger, clock: Clock) -> None:
    first = send(ledger, 0, arrived_at=clock())
    clock.tick(1)
    second = send(ledger, 0, arrived_at=clock())
    assert first != second
    assert send(ledger, 1) == second


def test_a_repetition_whose_first_never_arrived_makes_the_job_once(ledger: Ledger) -> None:
    assert send(ledger, 1) == send(ledger, 2)
    assert send(ledger, 1, digest="another") != send(ledger, 1)
    assert len(ledger.jobs.list()) == 2


def test_a_first_sending_that_its_repetition_has_overtaken_makes_no_second_job(
    ledger: Ledger, clock: Clock
) -> None:
    arrived = clock()
    clock.tick(5)
    second = send(ledger, 1, arrived_at=clock())
    clock.tick(5)
    assert send(ledger, 0, arrived_at=arrived) == second


def test_after_ten_minutes_a_repetition_is_a_request_of_its_own(
    ledger: Ledger, clock: Clock
) -> None:
    first = send(ledger, 0)
    clock.tick(599)
    assert send(ledger, 1) == first
    clock.tick(2)
    assert send(ledger, 1) != first


def test_repetitions_that_come_together_make_one_job(ledger: Ledger) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = set(pool.map(lambda n: send(ledger, 1 + n % 3), range(16)))
    assert len(made) == len(ledger.jobs.list()) == 1


def test_a_repetition_is_told_how_the_job_stands_now(ledger: Ledger) -> None:
    first = send(ledger, 0)
    ledger.jobs.cancel(first)
    seen: list[tuple[JobStatus, Place | None]] = []

    def look(job: Job, place: Place | None):
        seen.append((job.status, place))
        return render(job, place)

    again = Sending(digest="d", retries=1, arrived_at=0)
    ledger.jobs.submit(new_job(), sending=again, render=look)
    assert seen == [(JobStatus.CANCELLED, None)]


# ---- failures from the start


def test_a_job_without_usable_data_has_failed_from_the_start_and_says_so(ledger: Ledger) -> None:
    error = JobError(code="invalid_training_file", message="Line 2: bad.", param="training_file")
    problems = ({"line": 2, "code": "missing_field"},)
    ledger.jobs.submit(replace(new_job(), error=error, problems=problems), render=render)
    [job] = ledger.jobs.list()
    assert (job.status, job.phase, job.error) == (JobStatus.FAILED, Phase.ENDED, error)
    assert job.finished_at is not None
    assert ledger.queue.places([job]) == {}
    assert claim(ledger) is None
    _created, validating, failed = ledger.jobs.events(job.id)
    assert validating.message == "Validating training file: file-1"
    assert (failed.kind, failed.level, failed.message) == (EventKind.ERROR, "error", "Line 2: bad.")
    assert failed.data["details"] == list(problems)


# ---- bounds


def test_no_more_jobs_wait_than_may_and_the_refusal_says_when_to_come_again(
    ledger: Ledger,
) -> None:
    running = claimed(ledger)
    submit(ledger)
    with pytest.raises(QueueFull, match="1 jobs wait already") as unknown:
        ledger.jobs.submit(new_job(), most_waiting=1, render=render)
    assert unknown.value.retry_after == 60
    for eta, told in ((42.0, 42), (5000.0, 600), (0.1, 1)):
        progress = Progress(step=1, total_steps=9, eta_seconds=eta)
        ledger.jobs.record([JobNote(job=running, phase=Phase.TRAINING, progress=progress)])
        with pytest.raises(QueueFull) as known:
            ledger.queue.require_room(1)
        assert known.value.retry_after == told
    ledger.queue.require_room(2)
    assert len(ledger.jobs.list()) == 2


def test_a_repetition_is_answered_also_where_no_place_is_left(ledger: Ledger) -> None:
    first = send(ledger, 0)
    again = Sending(digest="d", retries=1, arrived_at=0)
    reply = ledger.jobs.submit(new_job(), sending=again, most_waiting=1, render=render)
    assert reply.body == first


def test_what_there_is_to_do_is_counted_by_base_model(ledger: Ledger, clock: Clock) -> None:
    claimed(ledger)
    clock.tick(5)
    submit(ledger)
    ledger.jobs.submit(new_job(base_model="other"), render=render)
    loads = {load.base_model: load for load in ledger.queue.loads()}
    assert (loads["tiny-base"].queued, loads["tiny-base"].running) == (1, 1)
    assert (loads["other"].queued, loads["other"].running) == (1, 0)
    assert loads["tiny-base"].soonest_end is None
    assert loads["tiny-base"].oldest == clock.now


# ---- lists


@pytest.mark.parametrize("key", ["team", "größe", 'with "quotes"', "a.b[0]", "back\\slash", "$"])
def test_jobs_are_found_by_their_metadata_whatever_the_keys_are_called(
    ledger: Ledger, key: str
) -> None:
    wanted = replace(new_job(), metadata={key: "red", "more": "x"})
    for new in (wanted, replace(new_job(), metadata={key: "blue"}), new_job()):
        ledger.jobs.submit(new, render=render)
    assert [job.id for job in ledger.jobs.list(metadata={key: "red"})] == [wanted.id]
    assert [job.id for job in ledger.jobs.list(metadata={key: "red", "more": "x"})] == [wanted.id]
    assert ledger.jobs.list(metadata={key: "red", "more": "y"}) == []
    assert [job.metadata for job in ledger.jobs.list(bare=True)] == [None]


def test_a_filtered_list_goes_on_after_a_job(ledger: Ledger, clock: Clock) -> None:
    ids = []
    for n in range(6):
        clock.tick(1)
        new = replace(new_job(), metadata={"even": str(n % 2 == 0)})
        ids.append(ledger.jobs.submit(new, render=render).body)
    page = ledger.jobs.list(metadata={"even": "True"}, limit=2)
    rest = ledger.jobs.list(metadata={"even": "True"}, limit=2, after=page[-1].id)
    assert [job.id for job in [*page, *rest]] == [ids[4], ids[2], ids[0]]


def test_integrations_are_given_back_as_they_came(ledger: Ledger) -> None:
    wandb = {"type": "wandb", "wandb": {"project": "p"}}
    new = replace(new_job(), integrations=(wandb,))
    ledger.jobs.submit(new, render=render)
    assert ledger.jobs.get(new.id).integrations == (wandb,)
    assert ledger.jobs.get(submit(ledger)).integrations == ()


def test_the_newest_events_come_first_and_go_on_before_one(ledger: Ledger) -> None:
    job = claimed(ledger)
    newest = ledger.jobs.latest_events(job.id, limit=2)
    assert [event.seq for event in newest] == [4, 3]
    rest = ledger.jobs.latest_events(job.id, before=3)
    assert [event.seq for event in rest] == [2, 1]


# ---- names


def test_a_version_is_found_by_what_openais_clients_call_it(ledger: Ledger, tmp_path: Path) -> None:
    job = claimed(ledger)
    publish(ledger, job, tmp_path)
    second = claimed(ledger)
    publish(ledger, second, tmp_path)
    assert ledger.registry.resolve(made_by(job)).name == "support-bot@1"
    assert ledger.registry.resolve(made_by(second)).fine_tuned_name == made_by(second)
    for unknown in (
        "ft:tiny-base:graft:support-bot:00000000",
        f"ft:other:graft:support-bot:{job.id[-8:]}",
        f"{made_by(job)}:ckpt-step-3",
        f"ft:tiny-base:graft:nobody:{job.id[-8:]}",
    ):
        with pytest.raises(AdapterNotFound):
            ledger.registry.resolve(unknown)


def test_deleting_the_live_version_leaves_the_newest_of_the_others_live(
    ledger: Ledger, tmp_path: Path
) -> None:
    for _ in range(3):
        publish(ledger, claimed(ledger), tmp_path)
    ledger.registry.delete_model(ledger.registry.resolve("support-bot"))
    assert ledger.registry.resolve("support-bot").name == "support-bot@2"
    ledger.registry.delete_model(ledger.registry.resolve("support-bot@1"))
    assert ledger.registry.resolve("support-bot").name == "support-bot@2"


def test_deleting_the_only_version_deletes_the_adapter(ledger: Ledger, tmp_path: Path) -> None:
    publish(ledger, claimed(ledger), tmp_path)
    only = ledger.registry.resolve("support-bot")
    ledger.registry.delete_model(only)
    with pytest.raises(AdapterNotFound):
        ledger.registry.get("support-bot")
    with pytest.raises(AdapterNotFound):
        ledger.registry.delete_model(only)
