"""What the ledger promises of quotas: what is over one leaves nothing, and no two get in with the room of one."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from adapters.artifacts import size_of
from adapters.db import storage
from adapters.db.schema import weights_sizes
from adapters.errors import InvalidValue, OverQuota
from adapters.files import NewFile, NewUpload
from adapters.ledger import Ledger
from adapters.manifest import MANIFEST_FILE, dump_manifest
from adapters.quotas import Stored
from adapters.records import IdempotencyKey, Job, Priority, Reply, Version
from adapters.settings import QuotaSettings
from tests.support.clock import Clock
from tests.support.samples import BASE, adapter_directory, brought, manifest, new_job, render

LIMIT = 100
#: Of the tenant that trains: more than two versions and their checkpoints take.
ROOMY = 1 << 20


@pytest.fixture
def quotas() -> QuotaSettings:
    small = {"stored_bytes": LIMIT, "max_queued": 2, "highest_priority": "normal"}
    roomy = {"stored_bytes": ROOMY, "max_queued": 5}
    return QuotaSettings(default=small, tenants={"roomy": roomy})


@pytest.fixture
def ours(ledger: Ledger) -> Ledger:
    return ledger.of("ours")


@pytest.fixture
def roomy(ledger: Ledger) -> Ledger:
    return ledger.of("roomy")


def bring(ledger: Ledger, path: Path, size: int, **more: Any) -> str:
    path.write_bytes(b"x" * size)
    new = NewFile(filename=path.name, purpose="evals", bytes=size, digest=f"{size:064}")
    new = replace(new, expires_after=more.pop("expires_after", None))
    return ledger.files.submit(
        path, new, render=lambda file: Reply(status=200, body=file.id), **more
    ).body


def begin(ledger: Ledger, size: int) -> str:
    new = NewUpload(bytes=size, filename="t", mime_type="text/plain", purpose="evals")
    return ledger.uploads.create(new, render=lambda made: Reply(status=200, body=made.id)).body


def add_part(ledger: Ledger, upload: str, path: Path, size: int, letter: str = "a") -> str:
    path.write_text(letter * size)
    return ledger.uploads.add_part(upload, path).id


def train(ledger: Ledger, tenant: str, adapter: str = "bot") -> Job:
    ledger.of(tenant).jobs.submit(new_job(adapter), render=render)
    job = ledger.jobs.claim(worker="w", base_model=BASE, lease_seconds=30, max_losses=5)
    assert job is not None
    return job


def publish(ledger: Ledger, job: Job, path: Path) -> tuple[Version, int]:
    """The version, and how many bytes it takes."""
    source = adapter_directory(path / job.id, content=job.id.encode())
    return ledger.registry.publish(job, source, manifest(job), promote=True), size_of(source)


def kept(home: Path, what: str) -> list[str]:
    return sorted(path.name for path in (home / "artifacts" / what).iterdir())


# ---- files


def test_a_file_for_which_there_is_no_room_is_refused_and_leaves_nothing(
    ours: Ledger, ledger: Ledger, tmp_path: Path
) -> None:
    file_id = bring(ours, tmp_path / "a", 60)
    with pytest.raises(OverQuota, match=r"keep 60 of the 100 bytes.*41 more") as told:
        bring(ours, tmp_path / "b", 41)
    assert (told.value.status, told.value.code, told.value.retry) == (
        429,
        "insufficient_quota",
        False,
    )
    (tmp_path / "c").write_bytes(b"x" * 41)
    with pytest.raises(OverQuota):
        ours.files.add(tmp_path / "c", filename="c", purpose="evals")
    with pytest.raises(OverQuota):
        ours.storage.require_room(more=41)
    ours.storage.require_room(more=40)
    assert kept(tmp_path, "files") == [file_id]
    assert [file.id for file in ours.files.list()] == [file_id]
    assert ours.storage.measure() == Stored(files=60)
    bring(ours, tmp_path / "d", 40)
    assert ours.storage.measure().total == LIMIT


def test_what_is_deleted_or_expires_makes_room_at_once(
    ours: Ledger, tmp_path: Path, clock: Clock
) -> None:
    gone = bring(ours, tmp_path / "a", 60)
    bring(ours, tmp_path / "b", 40, expires_after=50.0)
    with pytest.raises(OverQuota):
        bring(ours, tmp_path / "c", 1)
    ours.files.delete(gone)
    bring(ours, tmp_path / "d", 60)
    clock.tick(51)
    bring(ours, tmp_path / "e", 40)
    assert ours.storage.measure() == Stored(files=100)


def test_of_many_that_come_at_once_no_more_get_in_than_there_is_room_for(
    ours: Ledger, tmp_path: Path
) -> None:
    def attempt(number: int) -> bool:
        try:
            bring(ours, tmp_path / f"file-{number}", 40)
        except OverQuota:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(attempt, range(8)))
    assert sum(outcomes) == 2
    assert ours.storage.measure().total == 80
    assert len(kept(tmp_path, "files")) == 2


def test_one_tenants_full_room_is_no_other_ones(ledger: Ledger, tmp_path: Path) -> None:
    bring(ledger.of("ours"), tmp_path / "a", LIMIT)
    bring(ledger.of("theirs"), tmp_path / "b", LIMIT)
    bring(ledger.of("roomy"), tmp_path / "c", LIMIT + 1)
    bring(ledger, tmp_path / "d", LIMIT + 1)
    assert [ledger.of(who).storage.limit for who in ("ours", "roomy")] == [LIMIT, ROOMY]
    assert ledger.storage.limit is None


def test_a_request_that_comes_again_needs_no_room(ours: Ledger, tmp_path: Path) -> None:
    key = IdempotencyKey(key="files:k", request_digest="d" * 64)
    first = bring(ours, tmp_path / "a", 80, key=key)
    assert bring(ours, tmp_path / "a", 80, retried=True) == first
    assert bring(ours, tmp_path / "a", 80, key=key) == first, (
        "as beside the first, in another process"
    )
    assert ours.files.find_reply(key) == Reply(status=200, body=first, replayed=True)
    assert ours.storage.measure().total == 80


# ---- uploads


def test_an_upload_takes_what_it_announces_until_it_ends(
    ours: Ledger, tmp_path: Path, clock: Clock
) -> None:
    upload = begin(ours, 60)
    assert ours.storage.measure() == Stored(uploads=60)
    with pytest.raises(OverQuota):
        begin(ours, 41)
    with pytest.raises(OverQuota):
        bring(ours, tmp_path / "a", 41)
    parts = [add_part(ours, upload, tmp_path / "p", 30, letter) for letter in "ab"]
    assert ours.storage.measure() == Stored(uploads=60), "which was announced"
    ours.uploads.complete(upload, parts, judge=lambda _: None)
    assert ours.storage.measure() == Stored(files=60)
    cancelled, expired = begin(ours, 20), begin(ours, 20)
    ours.uploads.cancel(cancelled)
    assert ours.storage.measure().uploads == 20
    clock.tick(3601)
    assert ours.storage.measure() == Stored(files=60), expired


def test_parts_beyond_what_was_announced_need_room_too(ours: Ledger, tmp_path: Path) -> None:
    upload = begin(ours, 60)
    add_part(ours, upload, tmp_path / "p", 60)
    add_part(ours, upload, tmp_path / "p", 40, "b")
    assert ours.storage.measure() == Stored(uploads=100)
    with pytest.raises(OverQuota):
        add_part(ours, upload, tmp_path / "p", 1, "c")
    assert len(kept(tmp_path, "parts")) == 2


def test_an_upload_is_not_completed_into_room_that_something_else_has_taken(
    ledger: Ledger, tmp_path: Path
) -> None:
    """What is trained is kept, and may take what an upload has announced."""
    ours, job = ledger.of("ours"), train(ledger, "ours")
    upload = begin(ours, 60)
    part = add_part(ours, upload, tmp_path / "p", 60)
    publish(ledger, job, tmp_path)
    with pytest.raises(OverQuota):
        ours.uploads.complete(upload, [part], judge=lambda _: None)
    assert kept(tmp_path, "files") == []
    assert ours.uploads.get(upload).status == "pending"
    ours.registry.delete("bot")
    assert ours.uploads.complete(upload, [part], judge=lambda _: None).file is not None


# ---- versions and checkpoints


def test_versions_and_checkpoints_take_room_and_the_same_files_once(
    ledger: Ledger, roomy: Ledger, tmp_path: Path
) -> None:
    job = train(ledger, "roomy")
    point = adapter_directory(tmp_path / "point", content=b"early")
    early = replace(manifest(job), result=replace(manifest(job).trained, steps=1))
    ledger.checkpoints.keep(job, point, early)
    _, size = publish(ledger, job, tmp_path)
    assert len(roomy.checkpoints.list(job.id)) == 2, "the last has the version's files"
    assert roomy.storage.measure() == Stored(versions=size, checkpoints=size_of(point))
    assert ledger.of("ours").storage.measure() == Stored()
    _, again = publish(ledger, train(ledger, "roomy"), tmp_path)
    assert roomy.storage.measure().versions == size + again
    roomy.registry.delete("bot")
    assert roomy.storage.measure() == Stored()


def test_what_was_trained_is_kept_however_full_it_is(ledger: Ledger, tmp_path: Path) -> None:
    job = train(ledger, "ours")
    version, size = publish(ledger, job, tmp_path)
    assert size > LIMIT
    assert ledger.of("ours").registry.resolve("bot") == version
    with pytest.raises(OverQuota):
        ledger.of("ours").storage.require_room(more=1)


def test_an_adapter_from_elsewhere_for_which_there_is_no_room_leaves_nothing(
    ledger: Ledger, ours: Ledger, roomy: Ledger, tmp_path: Path
) -> None:
    made = brought()
    source = adapter_directory(tmp_path / "brought")
    (source / MANIFEST_FILE).write_text(dump_manifest(made))
    with pytest.raises(OverQuota):
        ours.registry.bring_in("bot", source, made, promote=True)
    assert kept(tmp_path, "versions") == []
    assert ours.registry.list() == []
    version, new = roomy.registry.bring_in("bot", source, made, promote=True)
    assert (new, roomy.storage.measure()) == (True, Stored(versions=size_of(source)))
    again = brought()
    (source / MANIFEST_FILE).write_text(dump_manifest(again))
    assert roomy.registry.bring_in("bot", source, again, promote=True) == (version, False)
    assert kept(tmp_path, "versions") == [version.digest]


def test_sizes_that_nobody_wrote_down_are_measured_and_those_of_purged_files_forgotten(
    ledger: Ledger, roomy: Ledger, tmp_path: Path, clock: Clock
) -> None:
    _, size = publish(ledger, train(ledger, "roomy"), tmp_path)
    database = ledger._drawer.database
    with database.write() as tx:  # as a ledger from before there were sizes
        tx.execute(weights_sizes.delete())
    assert roomy.storage.measure() == Stored()
    assert ledger.storage.weigh() == 1
    assert roomy.storage.measure() == Stored(versions=size)
    assert ledger.storage.weigh() == 0
    roomy.registry.delete("bot")
    clock.tick(100)
    ledger.registry.purge(older_than=50)
    ledger.checkpoints.purge(older_than=50)
    with database.read() as tx:
        assert tx.execute(weights_sizes.select()).all() == []
        assert storage.unmeasured(tx) == set()


# ---- jobs


def submit(ledger: Ledger) -> None:
    ledger.jobs.submit(new_job(), most_waiting=100, render=render)


def test_each_tenant_has_as_many_places_in_the_queue_as_its_quota_says(
    ledger: Ledger, ours: Ledger, roomy: Ledger
) -> None:
    for _ in range(2):
        submit(ours)
    assert (ours.queue.room().limit, ours.queue.room().left, ours.queue.room().queued) == (2, 0, 2)
    refused: list[Callable[[], None]] = [
        lambda: submit(ours),
        lambda: ours.queue.require_room(100),
    ]
    for ask in refused:
        with pytest.raises(OverQuota, match="2 of your jobs wait already, and at most 2 may"):
            ask()
    assert roomy.queue.room().left == 5
    # Whoever is told nothing of a tenant goes by the rules of the queue.
    assert ledger.queue.room().limit == 1000


def test_each_tenants_jobs_are_as_urgent_as_its_quota_allows(
    ours: Ledger, ledger: Ledger, roomy: Ledger
) -> None:
    with pytest.raises(InvalidValue, match="at most 'normal' here, not 'high'"):
        ours.queue.require_priority(Priority.HIGH)
    ours.queue.require_priority(Priority.NORMAL)
    assert (ours.queue.highest_priority, ledger.queue.highest_priority) == ("normal", "high")
    with pytest.raises(InvalidValue):
        # What is not said of a tenant is as for all.
        roomy.queue.require_priority(Priority.HIGH)
