"""Whose turn it is, in the ledger: shares, urgency, places, and who may wait."""

from collections import defaultdict
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from adapters.demand import Room
from adapters.errors import InvalidValue, OverQuota
from adapters.ledger import Ledger
from adapters.records import (
    Job,
    JobError,
    JobNote,
    JobStatus,
    Phase,
    Priority,
    Progress,
)
from adapters.settings import QueueSettings
from tests.conformance.test_ledger import lose
from tests.support.clock import Clock
from tests.support.samples import BASE, adapter_directory, manifest, new_job, render

LOW, NORMAL, HIGH = Priority
WEIGHTS = {"one": 1.0, "two": 2.0, "four": 4.0}
ENOUGH = JobError(code="x", message="It has been long enough.")


@pytest.fixture
def rules() -> QueueSettings:
    return QueueSettings(weights=WEIGHTS, max_queued=30, highest_priority="normal")


def submit(ledger: Ledger, tenant: str = "one", priority: Priority = NORMAL) -> str:
    new = replace(new_job(f"{tenant}-bot"), tenant=tenant, priority=priority)
    return ledger.jobs.submit(new, render=render).body


def claim(ledger: Ledger, worker: str = "w", lease_seconds: float = 1e9) -> Job | None:
    return ledger.jobs.claim(
        worker=worker, base_model=BASE, lease_seconds=lease_seconds, max_losses=9
    )


def end(ledger: Ledger, job: Job) -> None:
    ledger.jobs.fail(job.id, job.attempt, ENOUGH)


def clear(ledger: Ledger, clock: Clock) -> None:
    """Nothing waits, nothing runs, and what was used is long ago."""
    jobs, _ = ledger.queue.busy(BASE)
    for job in jobs:
        ledger.jobs.cancel(job.id)
    clock.tick(100 * 3600)


@dataclass
class Shop:
    """A trainer of so many slots; each job takes as long as its tenant's do."""

    ledger: Ledger
    clock: Clock
    slots: int
    lasts: dict[str, float]
    running: dict[str, tuple[float, Job]] = field(default_factory=dict)
    used: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    started: list[str] = field(default_factory=list)

    def fill(self) -> None:
        while len(self.running) < self.slots and (job := claim(self.ledger)):
            self.running[job.id] = (self.clock.now + self.lasts[job.tenant], job)
            self.started.append(job.tenant)

    def end_one(self) -> None:
        """Until the first of those that run has ended."""
        until, first = min(self.running.values(), key=lambda one: one[0])
        for _, job in self.running.values():
            self.used[job.tenant] += (until - self.clock.now) / len(self.running)
        self.clock.tick(until - self.clock.now)
        del self.running[first.id]
        end(self.ledger, first)


# ---- shares


@pytest.mark.parametrize("slots", [1, 4])
def test_shares_come_to_the_weights_where_everybody_always_has_work(
    slots: int, ledger: Ledger, clock: Clock
) -> None:
    shop = Shop(ledger, clock, slots, {"one": 50.0, "two": 40.0, "four": 90.0})
    for tenant in WEIGHTS:
        for _ in range(slots):
            submit(ledger, tenant)
    for _ in range(60):
        known = len(shop.started)
        shop.fill()
        for tenant in shop.started[known:]:
            submit(ledger, tenant)
        shop.end_one()
    total = sum(shop.used.values())
    for tenant, weight in WEIGHTS.items():
        fair = weight / sum(WEIGHTS.values())
        assert shop.used[tenant] / total == pytest.approx(fair, rel=0.2)


def test_jobs_in_one_process_share_its_seconds(ledger: Ledger, clock: Clock) -> None:
    for tenant in ("one", "one", "one", "two"):
        submit(ledger, tenant)
    jobs = [claim(ledger) for _ in range(4)]
    clock.tick(400)
    ledger.jobs.renew(jobs, lease_seconds=1e9)
    assert [ledger.jobs.get(job.id).ran_seconds for job in jobs] == [400] * 4
    # Three hundred seconds are one's, a hundred two's, at half the price.
    for job in jobs:
        end(ledger, job)
    waiting = {tenant: submit(ledger, tenant) for tenant in ("one", "two", "four")}
    assert [claim(ledger).id for _ in range(3)] == [waiting[t] for t in ("four", "two", "one")]


def test_every_way_out_of_a_process_is_charged_and_only_the_time_in_it(
    ledger: Ledger, clock: Clock, tmp_path
) -> None:
    ways = {
        "cancelled": lambda job: ledger.jobs.cancel(job.id),
        "paused": lambda job: ledger.jobs.pause(job.id),
        "failed": lambda job: end(ledger, job),
        "lost": lambda job: ledger.jobs.requeue([note(job)], reason="x", lost=True),
        "published": lambda job: ledger.registry.publish(
            job, adapter_directory(tmp_path / job.id), manifest(job), promote=True
        ),
    }
    for leave in ways.values():
        clear(ledger, clock)
        submit(ledger)
        clock.tick(50)
        job = claim(ledger)
        clock.tick(7)
        leave(job)
        clock.tick(50)
        assert ledger.jobs.get(job.id).ran_seconds == pytest.approx(7)


def test_what_was_used_long_ago_counts_little(ledger: Ledger, clock: Clock) -> None:
    for tenant, seconds in (("one", 4000), ("two", 4000)):
        submit(ledger, tenant)
        job = claim(ledger)
        clock.tick(seconds)
        end(ledger, job)
        clock.tick(3 * 3600)
    # Both have used the same, and two has twice the weight; but one has done so four hours ago.
    later, sooner = submit(ledger, "two"), submit(ledger, "one")
    assert [claim(ledger).id, claim(ledger).id] == [sooner, later]


def test_the_time_that_a_dead_worker_did_not_train_is_nobodys(ledger: Ledger, clock: Clock) -> None:
    job_id = submit(ledger)
    claim(ledger, "w1", lease_seconds=30)
    clock.tick(5000)
    again = claim(ledger, "w2")
    clock.tick(3)
    ledger.jobs.renew([again], lease_seconds=30)
    assert ledger.jobs.get(job_id).ran_seconds == 3


# ---- urgency


def test_a_flood_holds_nobody_up(ledger: Ledger, clock: Clock) -> None:
    for _ in range(40):
        submit(ledger, "one")
    shop = Shop(ledger, clock, 1, dict.fromkeys(WEIGHTS, 60.0))
    for _ in range(3):
        shop.fill()
        shop.end_one()
    shop.fill()
    single = submit(ledger, "two")
    shop.end_one()
    shop.fill()
    assert shop.started[-1] == "two"
    assert ledger.jobs.get(single).status is JobStatus.RUNNING


def test_a_flood_that_has_waited_for_hours_holds_nobody_up(ledger: Ledger, clock: Clock) -> None:
    for _ in range(20):
        submit(ledger, "one")
    shop = Shop(ledger, clock, 1, dict.fromkeys(WEIGHTS, 1700.0))
    for _ in range(6):
        shop.fill()
        shop.end_one()
    submit(ledger, "two", LOW)
    submit(ledger, "two")
    shop.fill()
    assert shop.started[-1] == "two"


def test_nobody_waits_for_ever(ledger: Ledger, clock: Clock) -> None:
    patient = submit(ledger, "four", LOW)
    shop = Shop(ledger, clock, 1, {"one": 600.0, "four": 1.0})
    submit(ledger, "one", HIGH)
    began = clock.now
    while ledger.jobs.get(patient).status is JobStatus.QUEUED:
        submit(ledger, "one", HIGH)  # there is always one that is more urgent
        shop.fill()
        shop.end_one()
        assert clock.now - began < 4 * 1800
    assert clock.now - began > 1800


def test_a_suspect_that_has_its_turn_is_waited_for_whoever_has_used_less(
    ledger: Ledger, clock: Clock
) -> None:
    suspect = submit(ledger, "one", HIGH)
    lose(ledger, suspect, step=0, times=2)
    clock.tick(1)
    submit(ledger, "four")
    alone = {"worker": "w", "base_model": BASE, "lease_seconds": 30, "max_losses": 9}
    looks = {"base_model": BASE, "alone": False, "max_losses": 9}
    assert not ledger.jobs.waits(**looks)
    assert ledger.jobs.claim(**alone, alone=False) is None
    ledger.jobs.claim(**alone)
    assert ledger.jobs.waits(**looks)


def test_a_suspect_whose_turn_is_not_yet_holds_nobody_up(ledger: Ledger, clock: Clock) -> None:
    suspect = submit(ledger, "one")
    lose(ledger, suspect, step=0, times=2)
    clock.tick(1)
    other = submit(ledger, "four", HIGH)
    looks = {"base_model": BASE, "alone": False, "max_losses": 9}
    assert ledger.jobs.waits(**looks)
    job = ledger.jobs.claim(**looks, worker="w", lease_seconds=30)
    assert job.id == other
    assert not ledger.jobs.waits(**looks)


def test_a_job_that_was_resumed_has_its_old_place(ledger: Ledger, clock: Clock) -> None:
    first = submit(ledger)
    clock.tick(1)
    submit(ledger)
    ledger.jobs.pause(first)
    clock.tick(1)
    ledger.jobs.resume(first)
    assert claim(ledger).id == first


EVENTS = st.one_of(
    st.tuples(st.just("submit"), st.sampled_from([*WEIGHTS]), st.sampled_from(Priority)),
    st.tuples(st.just("wait"), st.sampled_from([1, 600, 2000])),
    st.tuples(st.sampled_from(["end", "give_back", "pause", "cancel"]), st.integers(0, 9)),
    st.tuples(st.sampled_from(["take", "resume"])),
)


class House:
    """A ledger, and what befalls it."""

    def __init__(self, ledger: Ledger, clock: Clock) -> None:
        self.ledger, self.clock = ledger, clock

    def submit(self, tenant: str, priority: Priority) -> None:
        submit(self.ledger, tenant, priority)
        self.clock.tick(1)

    def wait(self, seconds: float) -> None:
        self.clock.tick(seconds)

    def take(self) -> Job | None:
        waiting, shown = self.those(JobStatus.QUEUED), self.ledger.queue.busy(BASE)[1]
        job = claim(self.ledger)
        assert (job.id if job else None) == next(iter(shown), None)
        assert shown.keys() == {one.id for one in waiting}
        if job is not None:
            lane = [w for w in waiting if (w.tenant, w.priority) == (job.tenant, job.priority)]
            assert job.id == lane[0].id, "the oldest of its lane"
        return job

    def end(self, number: int) -> None:
        for job in self.one_of(JobStatus.RUNNING, number):
            end(self.ledger, job)

    def give_back(self, number: int) -> None:
        for job in self.one_of(JobStatus.RUNNING, number):
            self.ledger.jobs.requeue([note(job)], reason="x", lost=False)

    def pause(self, number: int) -> None:
        for job in self.one_of(JobStatus.QUEUED, number):
            self.ledger.jobs.pause(job.id)

    def cancel(self, number: int) -> None:
        for job in self.one_of(JobStatus.QUEUED, number):
            self.ledger.jobs.cancel(job.id)

    def resume(self) -> None:
        for job in self.ledger.jobs.list(limit=50):
            if job.status is JobStatus.PAUSED:
                self.ledger.jobs.resume(job.id)

    def one_of(self, status: JobStatus, number: int) -> list[Job]:
        jobs = self.those(status)
        return [jobs[number % len(jobs)]] if jobs else []

    def those(self, status: JobStatus) -> list[Job]:
        return [job for job in self.ledger.queue.busy(BASE)[0] if job.status is status]


@settings(
    max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(events=st.lists(EVENTS, max_size=20))
def test_whatever_happens_what_the_queue_shows_is_what_it_does(
    events: list[tuple[str, object]], ledger: Ledger, clock: Clock
) -> None:
    clear(ledger, clock)
    house = House(ledger, clock)
    for event, *what in events:
        getattr(house, event)(*what)
    while house.take() is not None:
        pass


def note(job: Job, eta: float | None = None) -> JobNote:
    return JobNote(job=job, phase=Phase.TRAINING, progress=Progress(eta_seconds=eta))


# ---- places and room


def test_a_place_says_when_the_job_is_likely_to_start(ledger: Ledger, clock: Clock) -> None:
    ledger.queue.attend("w", base_model=BASE, slots=2, lease_seconds=30)
    first, second = submit(ledger), submit(ledger)
    running = claim(ledger), claim(ledger)
    assert {job.id for job in running} == {first, second}
    ledger.jobs.record([note(running[0], 300.0), note(running[1], 100.0)])
    clock.tick(1)
    waiting = []
    for _ in range(3):
        waiting.append(submit(ledger))
        clock.tick(1)
    places = ledger.queue.places([ledger.jobs.get(job_id) for job_id in waiting])
    assert [(p.position, p.starts_in) for p in places.values()] == [
        (1, 100.0),
        (2, 300.0),
        (3, None),
    ]
    assert ledger.of("four").queue.wait(BASE, priority=NORMAL) == 100.0
    assert ledger.of("one").queue.wait(BASE, priority=NORMAL) is None
    assert ledger.queue.places(running) == {}


def test_who_trains_is_known_while_it_says_so(ledger: Ledger, clock: Clock) -> None:
    assert ledger.queue.loads() == []
    for worker, slots in (("w1", 32), ("w2", 8), ("w2", 16)):
        ledger.queue.attend(worker, base_model=BASE, slots=slots, lease_seconds=30)
    [load] = ledger.queue.loads()
    assert (load.base_model, load.slots, load.queued, load.running) == (BASE, 48, 0, 0)
    ledger.queue.leave("w1")
    assert ledger.queue.loads()[0].slots == 16
    clock.tick(31)
    assert ledger.queue.loads() == []


def test_a_retry_that_is_not_due_stands_behind_those_that_may_start(
    ledger: Ledger, clock: Clock
) -> None:
    first, second = submit(ledger), submit(ledger)
    job = claim(ledger)
    ledger.jobs.requeue([note(job)], reason="x", lost=True, delay=60)
    other = second if job.id == first else first
    places = ledger.queue.places([ledger.jobs.get(first), ledger.jobs.get(second)])
    assert (places[other].position, places[job.id].position) == (1, 2)
    clock.tick(61)
    assert next(iter(ledger.queue.busy(BASE)[1])) in {first, second}


def test_one_tenants_full_queue_is_no_other_ones(ledger: Ledger) -> None:
    for _ in range(30):
        submit(ledger, "one")
    assert ledger.of("one").queue.room() == Room(limit=30, left=0, queued=30, next_in=None)
    with pytest.raises(OverQuota, match="30 of your jobs wait already, and at most 30 may") as full:
        ledger.jobs.submit(replace(new_job(), tenant="one"), most_waiting=1000, render=render)
    assert full.value.retry_after == 60
    assert "ask again in 60 s" in full.value.message
    ledger.jobs.submit(replace(new_job(), tenant="two"), most_waiting=1000, render=render)
    two, four = ledger.of("two").queue.room(), ledger.of("four").queue.room()
    assert (two.left, four.next_in) == (29, 0.0)


def test_a_full_queue_says_when_the_tenants_own_next_job_starts(
    ledger: Ledger, clock: Clock
) -> None:
    ledger.queue.attend("w", base_model=BASE, slots=1, lease_seconds=3000)
    submit(ledger, "one")
    job = claim(ledger)
    ledger.jobs.record([note(job, 200.0)])
    for _ in range(30):
        submit(ledger, "one")
    with pytest.raises(OverQuota) as full:
        ledger.of("one").queue.require_room(1000)
    assert full.value.retry_after == 200
    assert "in about 200 s" in full.value.message


def test_no_job_is_more_urgent_than_may_be(ledger: Ledger) -> None:
    ledger.queue.require_priority(NORMAL)
    with pytest.raises(InvalidValue, match="at most 'normal' here, not 'high'"):
        ledger.queue.require_priority(HIGH)
