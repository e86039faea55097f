"""What only a database server can do: go away and come back, keep connections open, and tell of changes."""

import logging
import threading
import time
from collections.abc import Iterator, Sized
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, event, text

from adapters.db.connect import Database
from adapters.db.notices import Listening
from adapters.db.queue import claim_job
from adapters.db.use import attend, count_slots
from adapters.errors import GraftError, InvalidValue, Unavailable
from adapters.ledger import Ledger, Topic, open_ledger
from adapters.records import EventKind, JobNote, JobStatus, NewEvent, Phase, Progress
from adapters.settings import LedgerSettings, QueueSettings
from tests.support.in_process import answering
from tests.support.ledgers import listening, publish, until
from tests.support.postgres import PASSWORD, Server
from tests.support.samples import BASE, new_job, render


@pytest.fixture
def home(
    tmp_path: Path, postgres: Server, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    monkeypatch.setenv("GRAFT_DATABASE_URL", database_url)
    yield tmp_path
    postgres.require_up()  # a test that failed in an outage must not fail those after it


@pytest.fixture
def settings(home: Path) -> LedgerSettings:
    return LedgerSettings(home=home)


def until_more(things: Sized, more: int) -> None:
    enough = len(things) + more
    until(lambda: len(things) >= enough)


# ---- going away, coming back


def test_a_restart_of_the_server_fails_what_is_under_way_and_loses_nothing_that_was_answered(
    here: Ledger, postgres: Server
) -> None:
    answered: set[str] = set()
    failures: list[Exception] = []
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            try:
                answered.add(here.jobs.submit(new_job(), render=render).body)
                here.jobs.claim(worker="w", base_model=BASE, lease_seconds=30, max_losses=9)
            except Exception as error:  # noqa: BLE001  whatever comes is looked at below
                failures.append(error)
                time.sleep(0.01)

    with ThreadPoolExecutor(4) as pool:
        workers = [pool.submit(work) for _ in range(4)]
        for _ in range(2):
            until_more(answered, 20)
            postgres.crash()
            until_more(failures, 4)
            postgres.start()
        until_more(answered, 20)
        stop.set()
        for worker in workers:
            worker.result()
    assert {type(error) for error in failures} == {Unavailable}
    assert all(error.status == 503 and error.retry_after for error in failures)
    there = {job.id for job in here.jobs.list(limit=100_000)}
    assert answered <= there


def test_the_first_use_after_a_restart_already_works(here: Ledger, postgres: Server) -> None:
    job_id = here.jobs.submit(new_job(), render=render).body
    postgres.crash()
    postgres.start()
    assert here.jobs.get(job_id).status is JobStatus.QUEUED


def test_requests_are_answered_503_while_the_server_is_away(
    home: Path, postgres: Server, caplog: pytest.LogCaptureFixture
) -> None:
    with answering(home) as client:
        assert client.get("/finetune").status_code == 200
        postgres.crash()
        for path in ("/finetune", "/readyz", "/v1/files", "/adapters"):
            refused = client.get(path)
            assert (refused.status_code, refused.headers["retry-after"]) == (503, "2")
            # What the log needs to know is nothing to those who ask.
            assert str(postgres.port) not in refused.text
        assert client.get("/healthz").status_code == 200
        assert str(postgres.port) in caplog.text
        postgres.start()
        assert client.get("/finetune").status_code == 200


def test_more_callers_than_connections_wait_for_each_other(home: Path) -> None:
    ledger = open_ledger(LedgerSettings(home=home, database_connections=2))
    with ThreadPoolExecutor(12) as pool:
        done = list(
            pool.map(lambda _: ledger.jobs.submit(new_job(), render=render).body, range(60))
        )
    assert len(set(done)) == len(ledger.jobs.list(limit=100)) == 60
    ledger.close()


def test_nobody_stays_in_a_transaction(here: Ledger, home: Path, postgres: Server) -> None:
    publish(here, home)
    with suppress(GraftError):
        here.jobs.get("ftjob-none")
    here.registry.list()
    states = postgres.execute(
        "SELECT state FROM pg_stat_activity WHERE application_name = 'graft' AND state <> 'idle'"
    )
    assert states == []


def test_a_worker_that_comes_back_leaves_what_another_is_just_taking_up(
    here: Ledger, home: Path
) -> None:
    """The lease of one that was killed has run out, and somebody claims its job in the moment in which it is back."""
    ids = [here.jobs.submit(new_job(), render=render).body for _ in range(2)]
    for _ in ids:
        assert here.jobs.claim(worker="w", base_model=BASE, lease_seconds=30, max_losses=9)
    database = Database(LedgerSettings(home=home).database)
    with ThreadPoolExecutor(1) as pool:
        with database.write() as tx:
            taken = claim_job(
                tx,
                worker="other",
                base_model=BASE,
                now=time.time() + 60,
                lease_seconds=30,
                alone=True,
                max_losses=9,
                rules=QueueSettings(),
            )
            assert taken is not None
            back = pool.submit(here.jobs.take_back, "w")
            until(lambda: waiting_for_a_lock(tx) > 0)
        assert back.result(30) == 1
    database.close()
    jobs = {job_id: here.jobs.get(job_id) for job_id in ids}
    assert jobs.pop(taken.id).status is JobStatus.RUNNING
    assert [job.status for job in jobs.values()] == [JobStatus.QUEUED]


def test_who_says_that_it_is_still_there_does_not_wait_for_another_that_is_saying_so(
    home: Path,
) -> None:
    """Both are late, so that each takes the other for gone; waiting for each other, they would be in a deadlock."""
    database = Database(LedgerSettings(home=home).database)
    for name in ("one", "other", "gone"):
        with database.write() as tx:
            attend(tx, name, base_model=BASE, slots=1, until=10.0, now=0.0)
    with database.write() as other:
        other.exec_driver_sql("UPDATE workers SET expires_at = 30 WHERE id = 'other'")
        with database.write() as one:
            one.exec_driver_sql("SET LOCAL lock_timeout = '5s'")
            attend(one, "one", base_model=BASE, slots=2, until=30.0, now=20.0)
    with database.read() as tx:
        assert count_slots(tx, 20.0) == {BASE: 3}
        assert tx.execute(text("SELECT count(*) FROM workers")).scalar_one() == 2
    database.close()


def waiting_for_a_lock(tx: Connection) -> int:
    told = text("SELECT count(*) FROM pg_locks WHERE NOT granted")
    return int(tx.execute(told).scalar_one())


# ---- news


def test_who_listens_hears_of_a_lost_connection_and_listens_again(
    here: Ledger, there: Ledger, home: Path, postgres: Server
) -> None:
    woken = listening(here, Topic.SERVED)
    postgres.crash()
    assert woken.wait(10)
    assert not here.changes.told  # so one polls
    postgres.start()
    until(lambda: here.changes.told)
    until(woken.is_set)  # whatever was missed is news
    woken.clear()
    publish(there, home)
    assert woken.wait(1.0)


# ---- what another database would take


def test_texts_with_nul_are_kept_with_another_sign(here: Ledger) -> None:
    new = replace(new_job(), metadata={"k\0": "v\0"})
    job_id = here.jobs.submit(new, render=render).body
    event = NewEvent(kind=EventKind.MESSAGE, message="a\0b", data={"c": "\0"})
    job = here.jobs.claim(worker="w\0", base_model=BASE, lease_seconds=30, max_losses=9)
    assert job is not None
    note = JobNote(job=job, phase=Phase.TRAINING, progress=Progress(), events=(event,))
    assert here.jobs.record([note]) == set()
    kept = here.jobs.events(job_id)[-1]
    assert (kept.message, kept.data) == ("a\ufffdb", {"c": "\0"})
    assert here.jobs.get(job_id).metadata == {"k\0": "v\0"}


def test_numbers_beyond_a_column_are_the_askers_fault(here: Ledger, home: Path) -> None:
    publish(here, home)
    with pytest.raises(InvalidValue, match="cannot hold"):
        here.aliases.promote("support-bot", 2**40)


# ---- secrets


def test_no_password_is_told_by_anything_that_goes_wrong(
    postgres: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    name = postgres.create(migrated=False)
    settings = LedgerSettings(home=tmp_path, database_url=postgres.tcp_url(name))
    open_ledger(settings).close()
    told = [repr(settings), str(settings.model_dump())]
    nowhere = f"postgresql://graft:{PASSWORD.replace('@', '%40')}@127.0.0.1:1/x"
    for url in (postgres.tcp_url(name, PASSWORD + "x"), postgres.tcp_url("none"), nowhere):
        with pytest.raises(Unavailable) as raised:
            open_ledger(LedgerSettings(home=tmp_path, database_url=url))
        told += [str(raised.value), repr(raised.value.__cause__), str(raised.value.__cause__)]
    assert "password authentication failed" in caplog.text
    assert "word-0" not in "".join([*told, caplog.text])
    postgres.drop(name)


def test_the_statements_of_errors_tell_nothing_of_their_values(here: Ledger) -> None:
    database = Database(LedgerSettings().database)
    with pytest.raises(Exception, match="hide_parameters") as raised, database.read() as tx:
        tx.exec_driver_sql("SELECT * FROM nothing WHERE x = %(secret)s", {"secret": "whsec_1"})
    assert "whsec_1" not in str(raised.value)
    database.close()


def test_a_connection_in_use_while_the_database_is_closed_is_closed_when_it_comes_back(
    home: Path,
) -> None:
    """A thread at work is not waited for by those who have stopped waiting for what it does."""
    database = Database(LedgerSettings(home=home).database)
    with database.read() as early:
        used = early.connection.driver_connection
        assert used is not None
        database.close()
        assert early.exec_driver_sql("SELECT 1").scalar_one() == 1
    with database.read() as late:
        made = late.connection.driver_connection
        assert made is not None
    assert [used.closed, made.closed] == [True, True]


def test_a_ledger_that_cannot_be_opened_leaves_no_connection_behind(
    postgres: Server, tmp_path: Path
) -> None:
    postgres.execute(
        "CREATE DATABASE latin_1 TEMPLATE template0 ENCODING 'LATIN1' LOCALE_PROVIDER libc LOCALE 'C'"
    )
    settings = LedgerSettings(home=tmp_path, database_url=postgres.url("latin_1"))
    theirs = "SELECT 1 FROM pg_stat_activity WHERE datname = 'latin_1'"
    # The error is kept, and with it all that its frames hold.
    with pytest.raises(InvalidValue, match="LATIN1"):
        open_ledger(settings)
    until(lambda: not postgres.execute(theirs))
    postgres.drop("latin_1")


def test_a_listener_that_cannot_begin_leaves_no_connection_behind(home: Path) -> None:
    engine = Database(LedgerSettings(home=home).database).engine
    made: list[Any] = []

    def spoil(connection: Any, _record: object) -> None:
        made.append(connection)
        connection.execute(
            "SELECT 1"
        )  # in a transaction now, which nobody may leave by `autocommit`

    event.listen(engine, "checkout", lambda connection, record, _proxy: spoil(connection, record))
    changes = Listening(engine)
    leave = changes.follow(Topic.SERVED, lambda: None)
    until(lambda: len(made) > 1)
    leave()
    changes.close()
    assert [connection.closed for connection in made] == [True] * len(made)
    engine.dispose()
