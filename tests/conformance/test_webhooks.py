"""What the ledger promises of webhooks: told in the same transaction, sent by one, tried again, given up."""

from dataclasses import replace
from pathlib import Path

import pytest

from adapters.errors import (
    DeliveryNotFound,
    EndpointNotFound,
    InvalidRequest,
    JobNotCancellable,
    LeaseLost,
)
from adapters.ledger import Ledger
from adapters.records import (
    Job,
    JobError,
    JobNote,
    Phase,
    Progress,
)
from adapters.webhooks import (
    ENDINGS,
    RETRY_AFTER_S,
    Delivery,
    DeliveryStatus,
    Endpoint,
    Happening,
    NewEndpoint,
    Outcome,
)
from tests.support.clock import Clock
from tests.support.samples import BASE, adapter_directory, manifest, new_job, render

OK = Outcome(status=204)
BROKEN = Outcome(status=500, error="it answered 500")
GONE = Outcome(status=410, error="it answered 410", gone=True)
EVERYTHING = tuple(Happening)


def new_endpoint(name: str = "a", events: tuple[Happening, ...] = ENDINGS) -> NewEndpoint:
    url = f"https://{name}.example/hook"
    return NewEndpoint(
        id=f"we_{name}", name=name, url=url, event_types=events, secret=f"whsec_{name}"
    )


def endpoint(ledger: Ledger, name: str = "a", events: tuple[Happening, ...] = ENDINGS) -> Endpoint:
    return ledger.webhooks.add(new_endpoint(name, events))


def running(ledger: Ledger) -> Job:
    ledger.jobs.submit(new_job(), render=render)
    job = ledger.jobs.claim(worker="w", base_model=BASE, lease_seconds=30, max_losses=5)
    assert job is not None
    return job


def cancelled(ledger: Ledger) -> Job:
    new = new_job()
    ledger.jobs.submit(new, render=render)
    return ledger.jobs.cancel(new.id)


def told(ledger: Ledger, endpoint_id: str = "we_a") -> list[Delivery]:
    """Oldest first."""
    return list(reversed(ledger.webhooks.deliveries(endpoint_id, limit=100)))


def types(ledger: Ledger, endpoint_id: str = "we_a") -> list[str]:
    return sorted(one.announcement.type for one in told(ledger, endpoint_id))


# ---- what is told


def test_an_endpoint_hears_of_a_cancelled_job(ledger: Ledger) -> None:
    endpoint(ledger)
    job = cancelled(ledger)
    [delivery] = told(ledger)
    news = delivery.announcement.news
    assert delivery.announcement.type == Happening.CANCELLED
    assert (news.job_id, news.status, news.adapter) == (job.id, "cancelled", job.adapter)
    assert (delivery.status, delivery.attempts) == (DeliveryStatus.PENDING, 0)


def test_a_job_that_is_cancelled_twice_is_told_of_once(ledger: Ledger) -> None:
    endpoint(ledger)
    job = cancelled(ledger)
    ledger.jobs.cancel(job.id)
    assert len(told(ledger)) == 1


def test_an_endpoint_hears_why_a_job_failed(ledger: Ledger) -> None:
    endpoint(ledger)
    job = running(ledger)
    ledger.jobs.fail(job.id, job.attempt, JobError(code="out_of_memory", message="too large"))
    [delivery] = told(ledger)
    assert delivery.announcement.type == Happening.FAILED
    assert delivery.announcement.news.error == {
        "code": "out_of_memory",
        "message": "too large",
        "param": None,
    }


def test_an_endpoint_hears_what_a_job_has_made(ledger: Ledger, tmp_path: Path) -> None:
    endpoint(ledger)
    job = running(ledger)
    source = adapter_directory(tmp_path / "made")
    version = ledger.registry.publish(job, source, manifest(job), promote=True)
    [delivery] = told(ledger)
    assert delivery.announcement.type == Happening.SUCCEEDED
    assert delivery.announcement.news.fine_tuned_model == version.name


def test_a_job_that_was_lost_too_often_is_told_of(ledger: Ledger) -> None:
    endpoint(ledger)
    job = running(ledger)
    note = JobNote(job=job, phase=Phase.TRAINING, progress=Progress())
    ledger.jobs.requeue([note], reason="it died", lost=True)
    assert ledger.jobs.claim(worker="w", base_model=BASE, lease_seconds=30, max_losses=1) is None
    assert types(ledger) == [Happening.FAILED]


def test_what_is_on_the_way_is_told_to_those_who_ask_for_it(ledger: Ledger, tmp_path: Path) -> None:
    endpoint(ledger, "a")
    endpoint(ledger, "b", EVERYTHING)
    job = running(ledger)
    ledger.checkpoints.keep(job, adapter_directory(tmp_path / "step"), manifest(job))
    ledger.registry.publish(job, adapter_directory(tmp_path / "made"), manifest(job), promote=True)
    assert types(ledger, "we_a") == [Happening.SUCCEEDED]
    assert types(ledger, "we_b") == [
        Happening.ADAPTER_READY,
        Happening.CHECKPOINT_CREATED,
        Happening.RUNNING,
        Happening.SUCCEEDED,
    ]
    [step] = [
        one.announcement.news.step
        for one in told(ledger, "we_b")
        if "checkpoint" in one.announcement.type
    ]
    assert step == manifest(job).result.steps


def test_a_pause_is_told_to_those_who_ask_for_it(ledger: Ledger) -> None:
    endpoint(ledger, "a")
    endpoint(ledger, "b", EVERYTHING)
    ledger.jobs.pause(running(ledger).id)
    assert types(ledger, "we_a") == []
    assert types(ledger, "we_b") == [Happening.PAUSED, Happening.RUNNING]


def test_a_job_that_failed_from_the_start_is_told_of(ledger: Ledger) -> None:
    endpoint(ledger)
    error = JobError(code="invalid_training_file", message="line 3")
    ledger.jobs.submit(replace(new_job(), error=error), render=render)
    assert types(ledger) == [Happening.FAILED]


def test_everybody_gets_an_event_under_the_same_id(ledger: Ledger) -> None:
    endpoint(ledger, "a")
    endpoint(ledger, "b")
    cancelled(ledger)
    [first], [second] = told(ledger, "we_a"), told(ledger, "we_b")
    assert first.announcement == second.announcement
    assert first.id != second.id


def test_a_jobs_own_endpoint_hears_of_that_job_only(ledger: Ledger) -> None:
    new = replace(new_job(), webhook=new_endpoint("own"))
    ledger.jobs.submit(new, render=render)
    cancelled(ledger)
    ledger.jobs.cancel(new.id)
    [delivery] = told(ledger, "we_own")
    assert delivery.announcement.news.job_id == new.id


def test_a_job_remembers_its_endpoint_and_not_the_secret(ledger: Ledger) -> None:
    new = replace(new_job(), webhook=new_endpoint("own"))
    ledger.jobs.submit(new, render=render)
    webhook = ledger.jobs.get(new.id).webhook
    assert (webhook.url, webhook.event_types) == ("https://own.example/hook", ENDINGS)
    assert webhook.secret_hint == "whsec_..._own"
    assert "whsec_own" not in repr(ledger.jobs.get(new.id))
    assert "whsec_own" not in repr(ledger.webhooks.get("we_own"))
    assert ledger.webhooks.list() == []


def test_what_did_not_happen_is_not_told(ledger: Ledger, tmp_path: Path) -> None:
    endpoint(ledger)
    job = running(ledger)
    ledger.jobs.cancel(job.id)
    with pytest.raises(LeaseLost):
        ledger.registry.publish(
            job, adapter_directory(tmp_path / "made"), manifest(job), promote=True
        )
    with pytest.raises(LeaseLost):
        ledger.jobs.fail(job.id, job.attempt, JobError(code="x", message="x"))
    assert types(ledger) == [Happening.CANCELLED]


def test_a_job_that_has_ended_tells_nothing_more(ledger: Ledger) -> None:
    endpoint(ledger)
    job = running(ledger)
    ledger.jobs.fail(job.id, job.attempt, JobError(code="x", message="x"))
    with pytest.raises(JobNotCancellable):
        ledger.jobs.cancel(job.id)
    assert types(ledger) == [Happening.FAILED]


# ---- who sends it


def test_a_delivery_is_taken_up_by_one(ledger: Ledger) -> None:
    endpoint(ledger)
    cancelled(ledger)
    assert ledger.webhooks.waits()
    errand = ledger.webhooks.claim(lease_seconds=30)
    assert errand.endpoint.url == "https://a.example/hook"
    assert ledger.webhooks.claim(lease_seconds=30) is None
    assert not ledger.webhooks.waits()


def test_who_died_with_a_delivery_is_followed_by_another(ledger: Ledger, clock: Clock) -> None:
    endpoint(ledger)
    cancelled(ledger)
    first = ledger.webhooks.claim(lease_seconds=30)
    clock.tick(31)
    second = ledger.webhooks.claim(lease_seconds=30)
    assert second.delivery.announcement == first.delivery.announcement
    assert (second.delivery.claims, second.delivery.attempts) == (2, 0)
    ledger.webhooks.settle(first, BROKEN)
    [delivery] = told(ledger)
    assert (delivery.attempts, delivery.last_status) == (0, None)
    ledger.webhooks.settle(second, OK)
    [delivery] = told(ledger)
    assert (delivery.status, delivery.attempts) == (DeliveryStatus.DELIVERED, 1)


def test_an_endpoint_is_told_one_thing_at_a_time_and_others_do_not_wait(ledger: Ledger) -> None:
    endpoint(ledger, "a")
    endpoint(ledger, "b")
    cancelled(ledger)
    cancelled(ledger)
    claimed = [ledger.webhooks.claim(lease_seconds=30) for _ in range(3)]
    assert sorted(errand.endpoint.id for errand in claimed[:2]) == ["we_a", "we_b"]
    assert claimed[2] is None
    ledger.webhooks.settle(claimed[0], OK)
    assert ledger.webhooks.claim(lease_seconds=30).endpoint.id == claimed[0].endpoint.id


def test_who_answers_is_told_before_those_who_do_not(ledger: Ledger, clock: Clock) -> None:
    endpoint(ledger, "a")
    cancelled(ledger)
    ledger.webhooks.settle(ledger.webhooks.claim(lease_seconds=30), BROKEN)
    clock.tick(60)
    endpoint(ledger, "b")
    cancelled(ledger)
    claimed = [ledger.webhooks.claim(lease_seconds=30) for _ in range(2)]
    assert [errand.endpoint.id for errand in claimed] == ["we_b", "we_a"]


def test_what_is_given_back_is_taken_up_again_at_once_and_cost_no_attempt(ledger: Ledger) -> None:
    endpoint(ledger)
    cancelled(ledger)
    first = ledger.webhooks.claim(lease_seconds=30)
    ledger.webhooks.give_back(first)
    second = ledger.webhooks.claim(lease_seconds=30)
    assert (second.delivery.id, second.delivery.attempts) == (first.delivery.id, 0)
    ledger.webhooks.give_back(first)
    assert ledger.webhooks.claim(lease_seconds=30) is None


# ---- how often it is tried


def test_a_failed_delivery_is_tried_again_on_schedule_and_then_given_up(
    ledger: Ledger, clock: Clock
) -> None:
    endpoint(ledger)
    cancelled(ledger)
    ids = set()
    for wait in [*RETRY_AFTER_S, None]:
        errand = ledger.webhooks.claim(lease_seconds=30)
        ids.add(errand.delivery.announcement.id)
        ledger.webhooks.settle(errand, BROKEN)
        if wait is not None:
            clock.tick(wait - 0.5)
            assert not ledger.webhooks.waits()
            clock.tick(0.5)
    [delivery] = told(ledger)
    assert (delivery.status, delivery.attempts) == (DeliveryStatus.FAILED, 8)
    assert (delivery.last_status, delivery.last_error) == (500, "it answered 500")
    assert len(ids) == 1
    clock.tick(10**6)
    assert not ledger.webhooks.waits()


def test_the_schedule_is_the_one_that_is_promised() -> None:
    assert RETRY_AFTER_S == (5, 5 * 60, 30 * 60, 2 * 3600, 5 * 3600, 10 * 3600, 10 * 3600)


def test_an_endpoint_that_says_it_is_gone_is_disabled(ledger: Ledger) -> None:
    endpoint(ledger)
    cancelled(ledger)
    cancelled(ledger)
    ledger.webhooks.settle(ledger.webhooks.claim(lease_seconds=30), GONE)
    assert "410" in ledger.webhooks.get("we_a").disabled_reason
    assert {one.status for one in told(ledger)} == {DeliveryStatus.FAILED}
    cancelled(ledger)
    assert len(told(ledger)) == 2
    assert not ledger.webhooks.waits()


def test_an_endpoint_that_fails_for_five_days_is_disabled(ledger: Ledger, clock: Clock) -> None:
    endpoint(ledger)
    for day in range(6):
        assert ledger.webhooks.get("we_a").disabled_at is None, day
        cancelled(ledger)
        ledger.webhooks.settle(ledger.webhooks.claim(lease_seconds=30), BROKEN)
        clock.tick(24 * 3600)
    assert "five days" in ledger.webhooks.get("we_a").disabled_reason


def test_a_success_ends_the_count_of_days(ledger: Ledger, clock: Clock) -> None:
    endpoint(ledger)
    for day in range(12):
        cancelled(ledger)
        while errand := ledger.webhooks.claim(lease_seconds=30):
            ledger.webhooks.settle(errand, OK if day % 3 == 2 else BROKEN)
        clock.tick(24 * 3600)
    assert ledger.webhooks.get("we_a").disabled_at is None


def test_a_retry_by_hand_is_made_now_and_begins_anew(ledger: Ledger, clock: Clock) -> None:
    endpoint(ledger)
    cancelled(ledger)
    errand = ledger.webhooks.claim(lease_seconds=30)
    ledger.webhooks.settle(errand, OK)
    again = ledger.webhooks.retry("we_a", errand.delivery.id)
    assert (again.status, again.attempts) == (DeliveryStatus.PENDING, 0)
    second = ledger.webhooks.claim(lease_seconds=30)
    assert second.delivery.announcement == errand.delivery.announcement


def test_the_log_forgets_what_ended_long_ago_and_never_what_is_still_to_be_told(
    ledger: Ledger, clock: Clock
) -> None:
    endpoint(ledger)
    ended = cancelled(ledger)
    clock.tick(1)
    pending = cancelled(ledger)
    errand = ledger.webhooks.claim(lease_seconds=30)
    clock.tick(100)
    ledger.webhooks.settle(errand, OK)
    clock.tick(50)
    assert errand.delivery.announcement.news.job_id == ended.id
    assert ledger.webhooks.purge(older_than=50) == 0
    assert ledger.webhooks.purge(older_than=49) == 1
    [left] = told(ledger)
    assert left.announcement.news.job_id == pending.id
    assert ledger.webhooks.purge(older_than=0) == 0
    with pytest.raises(DeliveryNotFound):
        ledger.webhooks.retry("we_a", errand.delivery.id)


def test_the_log_forgets_in_pieces_what_was_given_up_without_a_call(
    ledger: Ledger, clock: Clock
) -> None:
    endpoint(ledger)
    for _ in range(3):
        cancelled(ledger)
    ledger.webhooks.update("we_a", enabled=False)
    clock.tick(10)
    assert ledger.webhooks.purge(older_than=5, at_once=2) == 3
    assert told(ledger) == []


def test_a_retry_of_what_is_being_sent_does_not_send_it_twice(ledger: Ledger) -> None:
    endpoint(ledger)
    cancelled(ledger)
    errand = ledger.webhooks.claim(lease_seconds=30)
    ledger.webhooks.retry("we_a", errand.delivery.id)
    assert ledger.webhooks.claim(lease_seconds=30) is None


def test_a_disabled_endpoint_takes_no_retry_until_it_is_enabled(ledger: Ledger) -> None:
    endpoint(ledger)
    cancelled(ledger)
    errand = ledger.webhooks.claim(lease_seconds=30)
    ledger.webhooks.settle(errand, GONE)
    with pytest.raises(InvalidRequest, match="enabled"):
        ledger.webhooks.retry("we_a", errand.delivery.id)
    ledger.webhooks.update("we_a", url="https://new.example")
    assert ledger.webhooks.get("we_a").disabled_at is None
    ledger.webhooks.retry("we_a", errand.delivery.id)
    assert ledger.webhooks.claim(lease_seconds=30).endpoint.url == "https://new.example"


# ---- endpoints


def test_endpoints_are_listed_newest_first_and_in_pages(ledger: Ledger, clock: Clock) -> None:
    for name in "abc":
        endpoint(ledger, name)
        clock.tick(1)
    assert [one.name for one in ledger.webhooks.list(limit=2)] == ["c", "b"]
    assert [one.name for one in ledger.webhooks.list(after="we_b")] == ["a"]


def test_deliveries_come_in_pages_too(ledger: Ledger) -> None:
    endpoint(ledger)
    for _ in range(3):
        cancelled(ledger)
    ids = [one.id for one in ledger.webhooks.deliveries("we_a")]
    first = ledger.webhooks.deliveries("we_a", limit=2)
    rest = ledger.webhooks.deliveries("we_a", after=first[-1].id)
    assert [one.id for one in [*first, *rest]] == ids
    with pytest.raises(DeliveryNotFound):
        ledger.webhooks.deliveries("we_a", after="whd_x")


def test_an_update_that_changes_nothing_leaves_the_time_of_the_last_change(
    ledger: Ledger, clock: Clock
) -> None:
    made = endpoint(ledger)
    clock.tick(5)
    assert ledger.webhooks.update("we_a", name="a", enabled=True) == made
    changed = ledger.webhooks.update("we_a", event_types=(Happening.FAILED,))
    assert changed.updated_at == made.updated_at + 5
    cancelled(ledger)
    assert told(ledger) == []


def test_an_old_secret_signs_for_a_day_if_it_is_kept(ledger: Ledger, clock: Clock) -> None:
    endpoint(ledger)
    rotated = ledger.webhooks.rotate("we_a", "whsec_new", keep_old=True)
    assert rotated.secrets(clock.now + 86_399) == ("whsec_new", "whsec_a")
    assert rotated.secrets(clock.now + 86_400) == ("whsec_new",)
    again = ledger.webhooks.rotate("we_a", "whsec_newer", keep_old=False)
    assert again.secrets(clock.now) == ("whsec_newer",)


def test_a_deleted_endpoint_is_gone_with_its_secret(ledger: Ledger) -> None:
    endpoint(ledger)
    cancelled(ledger)
    errand = ledger.webhooks.claim(lease_seconds=30)
    ledger.webhooks.delete("we_a")
    ledger.webhooks.settle(errand, BROKEN)
    assert not ledger.webhooks.waits()
    for ask in (ledger.webhooks.get, ledger.webhooks.delete, ledger.webhooks.deliveries):
        with pytest.raises(EndpointNotFound):
            ask("we_a")
    cancelled(ledger)


def test_a_jobs_own_endpoint_stays_as_it_was_asked_for(ledger: Ledger) -> None:
    ledger.jobs.submit(replace(new_job(), webhook=new_endpoint("own")), render=render)
    with pytest.raises(InvalidRequest, match="belongs to the job"):
        ledger.webhooks.update("we_own", url="https://other.example")
    with pytest.raises(InvalidRequest, match="belongs to the job"):
        ledger.webhooks.rotate("we_own", "whsec_x", keep_old=False)
    ledger.webhooks.delete("we_own")
