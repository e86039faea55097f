"""What one process commits, those that follow hear of long before they would look for themselves."""

import asyncio
import threading
import time
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

import pytest

from adapters.errors import InvalidValue
from adapters.ledger import Ledger, Topic, open_ledger
from adapters.records import EventKind, Job, JobNote, NewEvent, Phase, Progress
from adapters.settings import LedgerSettings
from adapters.webhooks import NewEndpoint, Outcome
from service.catalog import Catalog
from service.events import follow_job
from service.metrics import Metrics as ServiceMetrics
from service.settings import WebhookSettings
from service.waiting import wait_for_job
from service.webhooks.courier import Courier
from service.webhooks.sign import new_secret
from tests.support.ledgers import listening, publish, until
from tests.support.samples import BASE, new_job, render
from trainer.hands import Hands
from trainer.metrics import Metrics
from trainer.placement import Placement
from trainer.settings import TrainerSettings
from trainer.triage import Triage

#: Longer than any of these tests: who is woken within it was not woken by the clock.
NEVER = 300.0


@pytest.fixture
def home(settings: LedgerSettings) -> Path:
    return settings.home


def test_a_version_that_one_process_publishes_wakes_another(
    here: Ledger, there: Ledger, home: Path
) -> None:
    woken = listening(here, Topic.SERVED)
    name = publish(there, home)
    assert woken.wait(1.0)
    assert here.registry.version(name).name == name


def test_a_commit_to_sqlite_is_heard_before_anybody_would_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adapters.db.notices._WATCH_S", NEVER)
    settings = LedgerSettings(home=tmp_path)
    with closing(open_ledger(settings)) as here, closing(open_ledger(settings)) as there:
        woken = listening(here, Topic.QUEUED)
        for _ in range(3):
            there.jobs.submit(new_job(), render=render)
            assert woken.wait(5)
            time.sleep(0.1)
            woken.clear()
        # So that it closes without waiting for its next look.
        here.changes._closing.set()
        there.jobs.submit(new_job(), render=render)


def test_where_no_bell_can_be_hung_sqlite_is_looked_at(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("in the way")
    settings = LedgerSettings(home=tmp_path)
    with closing(open_ledger(settings)) as here, closing(open_ledger(settings)) as there:
        woken = listening(here, Topic.QUEUED)
        there.jobs.submit(new_job(), render=render)
        assert woken.wait(5)


async def test_a_catalog_that_hardly_polls_answers_with_what_another_process_has_changed(
    here: Ledger, there: Ledger, home: Path
) -> None:
    catalog = Catalog(here.registry, [BASE], here.checkpoints)
    following = asyncio.create_task(catalog.follow(here.changes, NEVER))

    async def means(name: str) -> None:
        async with asyncio.timeout(5):
            while [one.live.name for one in catalog.adapters if one.live] != [name]:
                await asyncio.sleep(0.01)

    for change, name in (
        (lambda: publish(there, home), "support-bot@1"),
        (lambda: publish(there, home), "support-bot@2"),
        (lambda: there.aliases.promote("support-bot", 1), "support-bot@1"),
    ):
        await asyncio.to_thread(change)
        await means(name)
    following.cancel()
    await asyncio.wait([following])


def test_a_trainer_that_hardly_polls_takes_up_a_job_at_once(here: Ledger, there: Ledger) -> None:
    settings = TrainerSettings(poll_seconds=NEVER)
    woken = threading.Event()
    triage = Triage(here, settings, Placement(), woken.set, base_model=BASE, worker_id="w")
    hands = Hands(here, Metrics())
    until(lambda: here.changes.told)
    until(lambda: triage.next(hands, ready=True) is None and triage.patience > 0)
    woken.clear()
    job_id = there.jobs.submit(new_job(), render=render).body
    assert woken.wait(5)
    until(lambda: triage.patience == 0, seconds=5)
    job = triage.next(hands, ready=True)
    assert job is not None
    assert job.id == job_id
    assert triage.next(hands, ready=True) is None
    given_back = JobNote(job=job, phase=Phase.TRAINING, progress=Progress())
    there.jobs.requeue([given_back], reason="it died", lost=False)
    until(lambda: triage.patience == 0, seconds=5)
    again = triage.next(hands, ready=True)
    assert again is not None
    assert (again.id, again.attempt) == (job_id, 2)


class Told:
    """Takes every call."""

    def __init__(self) -> None:
        self.calls = 0

    async def post(self, _url: str, _body: bytes, _headers: Mapping[str, str]) -> Outcome:
        self.calls += 1
        return Outcome(status=204)


async def test_a_courier_with_nothing_to_do_sets_out_for_what_another_process_announces(
    here: Ledger, there: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.webhooks.courier._BEHIND_S", NEVER)
    there.webhooks.add(
        NewEndpoint(id="we_1", name="x", url="https://a.example/", secret=new_secret())
    )
    told = Told()
    settings = WebhookSettings(poll_seconds=0.01)
    courier = Courier(here.webhooks, here.changes, told, settings, metrics=ServiceMetrics())
    looks = 0
    is_empty = here.webhooks.is_empty

    def counted() -> bool:
        nonlocal looks
        looks += 1
        return is_empty()

    monkeypatch.setattr(here.webhooks, "is_empty", counted)
    running = asyncio.create_task(courier.run())
    while not here.changes.told:
        await asyncio.sleep(0.01)
    for calls in (1, 2):
        await asyncio.sleep(0.3)
        before = looks
        await asyncio.sleep(0.3)
        assert looks - before <= 1  # it would be thirty
        new = new_job()
        await asyncio.to_thread(there.jobs.submit, new, render=render)
        await asyncio.to_thread(there.jobs.cancel, new.id)
        async with asyncio.timeout(5):
            while told.calls < calls:
                await asyncio.sleep(0.01)
    running.cancel()
    await asyncio.wait([running])


async def test_who_follows_a_job_is_told_when_it_ends_and_hardly_looks_before(
    here: Ledger, there: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    for pause in ("POLL_S", "BEHIND_S"):
        monkeypatch.setattr(f"service.hearing.{pause}", NEVER)
    job_id = there.jobs.submit(new_job(), render=render).body
    looks = 0
    get = here.jobs.get

    def counted(job_id: str) -> Job:
        nonlocal looks
        looks += 1
        return get(job_id)

    monkeypatch.setattr(here.jobs, "get", counted)

    async def followed() -> bytes:
        log = follow_job(here.jobs, here.changes, job_id, after=0)
        return b"".join([chunk async for chunk in log])

    log = asyncio.create_task(followed())
    end = asyncio.create_task(wait_for_job(here.jobs, here.changes, job_id, NEVER))
    while not here.changes.told or looks < 2:
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.3)
    before = looks
    await asyncio.sleep(0.3)
    assert looks == before
    await asyncio.to_thread(there.jobs.cancel, job_id)
    async with asyncio.timeout(5):
        told, ended = await log, await end
    assert b"event: done" in told
    assert ended is not None
    assert ended.status.value == "cancelled"


def test_of_a_line_in_the_log_they_are_told_who_are_told_of_commits(
    here: Ledger, there: Ledger
) -> None:
    woken = listening(here, Topic.LOGGED)
    there.jobs.submit(new_job(), render=render)
    assert woken.wait(5)
    job = there.jobs.claim(worker="w", base_model=BASE, lease_seconds=30, max_losses=9)
    assert job is not None
    time.sleep(0.3)
    woken.clear()
    line = NewEvent(kind=EventKind.METRICS, message="a step")
    there.jobs.record([JobNote(job=job, phase=Phase.TRAINING, progress=Progress(), events=[line])])
    assert woken.wait(0.5) == here.changes.told_of_commits


def test_a_change_that_is_rolled_back_is_no_news(here: Ledger, there: Ledger) -> None:
    woken = listening(here, Topic.QUEUED)

    def refuse(*_: object) -> None:
        raise InvalidValue("no")

    with pytest.raises(InvalidValue):
        there.jobs.submit(new_job(), render=refuse)
    assert not woken.wait(0.5)
    there.jobs.submit(new_job(), render=render)
    assert woken.wait(5)


def test_who_has_left_hears_of_nothing(here: Ledger, there: Ledger, home: Path) -> None:
    heard, left = listening(here, Topic.SERVED), threading.Event()
    leave = here.changes.follow(Topic.SERVED, left.set)
    leave()
    publish(there, home)
    assert heard.wait(5)
    assert not left.is_set()


def test_who_is_closed_tells_nobody_and_says_so(here: Ledger, there: Ledger, home: Path) -> None:
    heard = listening(here, Topic.SERVED)
    here.changes.close()
    assert not here.changes.told
    heard.clear()
    publish(there, home)
    assert not heard.wait(0.5)
