"""What the ledger promises of tenants: of what is another's, it behaves as if it were not there."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from adapters.demand import Sending
from adapters.errors import (
    AdapterNameConflict,
    AdapterNotFound,
    AdapterReadOnly,
    EndpointNotFound,
    FileNotFound,
    GraftError,
    InvalidValue,
    JobNotFound,
    KeyNotFound,
    NotFound,
    UploadNotFound,
)
from adapters.files import NewUpload
from adapters.keys import NewKey, Scope, digest_of
from adapters.ledger import Ledger
from adapters.manifest import MANIFEST_FILE, dump_manifest
from adapters.records import IdempotencyKey, Job, Reply, Version
from adapters.sharing import EVERYBODY, Share, Use
from adapters.webhooks import Happening, NewEndpoint, Outcome
from tests.support.clock import Clock
from tests.support.samples import BASE, adapter_directory, brought, manifest, new_job, render


@pytest.fixture
def ours(ledger: Ledger) -> Ledger:
    return ledger.of("ours")


@pytest.fixture
def theirs(ledger: Ledger) -> Ledger:
    return ledger.of("theirs")


def submit(ledger: Ledger, adapter: str = "bot") -> str:
    return ledger.jobs.submit(new_job(adapter), render=render).body


def claim(ledger: Ledger) -> Job:
    job = ledger.jobs.claim(worker="w", base_model=BASE, lease_seconds=30, max_losses=5)
    assert job is not None
    return job


def publish(ledger: Ledger, job: Job, path: Path) -> Version:
    source = adapter_directory(path / job.id, content=job.id.encode())
    return ledger.registry.publish(job, source, manifest(job), promote=True)


def published(ledger: Ledger, owner: Ledger, path: Path, adapter: str = "bot") -> Version:
    submit(owner, adapter)
    return publish(ledger, claim(ledger), path)


def saved(path: Path, content: bytes = b"rows") -> Path:
    path.write_bytes(content)
    return path


def endpoint(ledger: Ledger, name: str) -> str:
    new = NewEndpoint(
        id=f"we_{name}",
        name=name,
        url=f"https://{name}.example/hook",
        event_types=tuple(Happening),
        secret=f"whsec_{name}",
    )
    return ledger.webhooks.add(new).id


def upload(ledger: Ledger, *, key: IdempotencyKey | None = None, retried: bool = False) -> str:
    new = NewUpload(
        bytes=4, filename="t.jsonl", mime_type="text/plain", purpose="fine-tune", expires_after=None
    )
    return ledger.uploads.create(
        new, key=key, retried=retried, render=lambda made: Reply(status=200, body=made.id)
    ).body


def refusal(ask: Callable[[Any], Any], about: Any) -> tuple[type[GraftError], str]:
    with pytest.raises(GraftError) as told:
        ask(about)
    return type(told.value), told.value.message


# ---- what is another's


def test_a_foreign_job_is_as_unknown_as_one_that_never_was(ours: Ledger, theirs: Ledger) -> None:
    theirs_id = submit(theirs)
    asks = [
        ours.jobs.get,
        ours.jobs.cancel,
        ours.jobs.pause,
        ours.jobs.resume,
        ours.checkpoints.list,
        lambda job_id: ours.jobs.list(after=job_id),
    ]
    for ask in asks:
        foreign, unknown = refusal(ask, theirs_id), refusal(ask, "ftjob-none")
        assert foreign[0] is unknown[0] is JobNotFound
        assert foreign[1].replace(theirs_id, "ftjob-none") == unknown[1]
    assert ours.jobs.list() == []
    assert ours.jobs.events(theirs_id) == ours.jobs.latest_events(theirs_id) == []
    assert theirs.jobs.get(theirs_id).status == "queued"
    assert sum(ours.jobs.count().values()) == 0


def test_a_foreign_file_is_as_unknown_as_one_that_never_was(
    ours: Ledger, theirs: Ledger, tmp_path: Path
) -> None:
    file = theirs.files.add(saved(tmp_path / "rows"), filename="t.jsonl", purpose="fine-tune")
    for ask in (
        ours.files.get,
        ours.files.path,
        ours.files.delete,
        lambda file_id: ours.files.list(after=file_id),
    ):
        foreign, unknown = refusal(ask, file.id), refusal(ask, "file-none")
        assert foreign[0] is unknown[0] is FileNotFound
        assert foreign[1].replace(file.id, "file-none") == unknown[1]
    assert ours.files.list() == []
    assert [one.id for one in theirs.files.list()] == [file.id]


def test_a_foreign_upload_is_as_unknown_as_one_that_never_was(
    ours: Ledger, theirs: Ledger, tmp_path: Path
) -> None:
    upload_id = upload(theirs)
    for ask in (
        ours.uploads.get,
        ours.uploads.cancel,
        lambda one: ours.uploads.add_part(one, saved(tmp_path / "part")),
        lambda one: ours.uploads.complete(one, [], judge=lambda _: None),
    ):
        foreign, unknown = refusal(ask, upload_id), refusal(ask, "upload_none")
        assert foreign[0] is unknown[0] is UploadNotFound
        assert foreign[1].replace(upload_id, "upload_none") == unknown[1]
    assert theirs.uploads.add_part(upload_id, saved(tmp_path / "part")).bytes == 4


def test_a_completed_upload_is_a_file_of_its_tenant(theirs: Ledger, tmp_path: Path) -> None:
    upload_id = upload(theirs)
    part = theirs.uploads.add_part(upload_id, saved(tmp_path / "part"))
    made = theirs.uploads.complete(upload_id, [part.id], judge=lambda _: None)
    assert made.file is not None
    assert theirs.files.get(made.file.id).bytes == 4


def test_a_foreign_webhook_endpoint_is_as_unknown_as_one_that_never_was(
    ours: Ledger, theirs: Ledger
) -> None:
    endpoint_id = endpoint(theirs, "theirs")
    for ask in (
        ours.webhooks.get,
        ours.webhooks.update,
        ours.webhooks.delete,
        ours.webhooks.deliveries,
        lambda one: ours.webhooks.rotate(one, "whsec_x", keep_old=False),
        lambda one: ours.webhooks.retry(one, "whd_none"),
        lambda one: ours.webhooks.list(after=one),
    ):
        foreign, unknown = refusal(ask, endpoint_id), refusal(ask, "we_none")
        assert foreign[0] is unknown[0] is EndpointNotFound
        assert foreign[1].replace(endpoint_id, "we_none") == unknown[1]
    assert ours.webhooks.list() == []
    assert theirs.webhooks.get(endpoint_id).secret == "whsec_theirs"


def changes_of_aliases(ledger: Ledger) -> list[Callable[[str], Any]]:
    """All that may be changed about which version of an adapter answers, and how."""
    aliases = ledger.aliases
    return [
        lambda name: aliases.point(name, "canary", 1, weight=0.5),
        lambda name: aliases.remove(name, "canary"),
        lambda name: aliases.promote(name, 1),
        lambda name: aliases.promote_alias(name, "live"),
        aliases.roll_back,
        lambda name: aliases.set_sampling(name, {"temperature": 0.5}),
    ]


def test_a_foreign_adapter_is_as_unknown_as_one_that_never_was(
    ledger: Ledger, ours: Ledger, theirs: Ledger, tmp_path: Path
) -> None:
    version = published(ledger, theirs, tmp_path)
    assert version.fine_tuned_name is not None
    job = theirs.jobs.list()[0]
    checkpoint = theirs.checkpoints.list(job.id)[0]
    registry = ours.registry
    asks: list[tuple[Callable[[str], Any], str, str]] = [
        (registry.get, "bot", "none"),
        (registry.delete, "bot", "none"),
        (registry.version, "bot@1", "none@1"),
        (registry.resolve, "bot@1", "none@1"),
        (registry.resolve, version.fine_tuned_name, version.fine_tuned_name.replace("bot", "none")),
        *((act, "bot", "none") for act in changes_of_aliases(ours)),
        (lambda name: ours.sharing.put(name, Share(tenant="third")), "bot", "none"),
        (ours.sharing.list, "bot", "none"),
        (lambda name: ours.sharing.end(name, EVERYBODY), "bot", "none"),
        (lambda name: registry.delete_version(name, 1), "bot", "none"),
        (ours.weights, "bot@1", "none@1"),
        (ours.checkpoints.find, checkpoint.name, checkpoint.name.replace("bot", "none")),
    ]
    for ask, their_name, no_name in asks:
        foreign, unknown = refusal(ask, their_name), refusal(ask, no_name)
        assert foreign[0] is unknown[0] is AdapterNotFound
        assert foreign[1].replace("bot", "none") == unknown[1]
    assert refusal(registry.delete_model, version)[0] is AdapterNotFound
    assert registry.list() == []
    assert registry.changes(since=0)[1] == []
    assert theirs.registry.get("bot").versions == (version,)
    assert theirs.checkpoints.find(checkpoint.name) == checkpoint


# ---- names


def test_a_name_is_its_tenants_from_the_moment_in_which_a_job_asks_for_it(
    ledger: Ledger, ours: Ledger, theirs: Ledger, tmp_path: Path
) -> None:
    job_id = submit(theirs)
    with pytest.raises(AdapterNameConflict, match="'bot' is taken") as told:
        submit(ours)
    assert (told.value.param, told.value.status) == ("name", 400)
    assert ours.jobs.list() == []
    assert publish(ledger, claim(ledger), tmp_path).name == "bot@1"
    with pytest.raises(AdapterNameConflict):
        submit(ours)
    assert submit(theirs) != job_id
    assert submit(ours, "another")


def test_a_name_that_came_to_nothing_is_free_again(
    ledger: Ledger, ours: Ledger, theirs: Ledger, tmp_path: Path
) -> None:
    theirs.jobs.cancel(submit(theirs))
    assert theirs.registry.list() == []
    assert published(ledger, ours, tmp_path).name == "bot@1"
    with pytest.raises(AdapterNameConflict):
        submit(theirs)


def test_a_deleted_adapters_name_is_free_once_no_job_is_on_its_way_there(
    ledger: Ledger, ours: Ledger, theirs: Ledger, tmp_path: Path
) -> None:
    published(ledger, theirs, tmp_path)
    theirs.sharing.put("bot", Share(tenant=EVERYBODY))
    waiting = submit(theirs)
    theirs.registry.delete("bot")
    with pytest.raises(AdapterNameConflict):
        submit(ours)
    theirs.jobs.cancel(waiting)
    assert published(ledger, ours, tmp_path).name == "bot@2"
    adapter = ours.registry.get("bot")
    assert (adapter.tenant, adapter.shared) == ("ours", False)


def test_a_name_that_is_only_claimed_is_no_adapter(
    ledger: Ledger, theirs: Ledger, tmp_path: Path, clock: Clock
) -> None:
    submit(theirs)
    assert theirs.registry.list() == ledger.registry.list() == []
    assert ledger.registry.changes(since=0)[1] == []
    clock.now += 100
    publish(ledger, claim(ledger), tmp_path)
    assert theirs.registry.get("bot").created_at == clock.now


# ---- sharing


@pytest.mark.parametrize("whom", ["ours", EVERYBODY])
@pytest.mark.parametrize(
    ("may", "uses"),
    [
        ({}, {Use.ASK}),
        ({"may_continue": True}, {Use.ASK, Use.CONTINUE}),
        ({"may_download": True}, {Use.ASK, Use.DOWNLOAD}),
    ],
)
def test_a_shared_adapter_is_good_for_what_its_owner_says_and_cannot_be_changed(
    whom: str,
    may: dict[str, bool],
    uses: set[Use],
    ledger: Ledger,
    ours: Ledger,
    theirs: Ledger,
    tmp_path: Path,
) -> None:
    version = published(ledger, theirs, tmp_path)
    revision, _ = ledger.registry.changes(since=0)
    theirs.sharing.put("bot", Share(tenant=whom, **may))
    shared = ledger.registry.changes(since=revision)[1][0]
    assert {use for use in Use if shared.allows("ours", use)} == uses
    assert shared.allows("third", Use.ASK) is (whom == EVERYBODY)
    assert [one.name for one in ours.registry.list()] == ["bot"]
    for use in Use:
        for name in ("bot", "bot@1", "bot@live", str(version.fine_tuned_name)):
            if use in uses:
                assert ours.registry.resolve(name, use) == version
                assert ours.registry.get("bot", use).tenant == "theirs"
            else:
                with pytest.raises(AdapterReadOnly, match="'bot' is theirs's"):
                    ours.registry.resolve(name, use)
    for refused in (
        lambda: ours.registry.get("bot"),
        lambda: ours.registry.delete("bot"),
        *(partial(act, "bot") for act in changes_of_aliases(ours)),
        lambda: ours.sharing.put("bot", Share(tenant="ours", may_download=True)),
        lambda: ours.sharing.list("bot"),
        lambda: ours.sharing.end("bot", whom),
        lambda: ours.registry.delete_version("bot", 1),
        lambda: ours.registry.delete_model(version),
    ):
        with pytest.raises(AdapterReadOnly):
            refused()
    with pytest.raises(AdapterNameConflict):
        submit(ours)
    theirs.sharing.end("bot", whom)
    with pytest.raises(AdapterNotFound):
        ours.registry.resolve("bot", Use.ASK)
    assert ours.registry.list() == []


def test_a_share_is_of_one_adapter_with_one_tenant_and_the_last_word_holds(
    ledger: Ledger, ours: Ledger, theirs: Ledger, tmp_path: Path, clock: Clock
) -> None:
    published(ledger, theirs, tmp_path)
    published(ledger, theirs, tmp_path, "other")
    theirs.sharing.put("bot", Share(tenant="ours", may_continue=True))
    theirs.sharing.put("bot", Share(tenant="third"))
    first, clock.now = clock.now, clock.now + 100
    again = theirs.sharing.put("bot", Share(tenant="ours", may_download=True))
    assert again.shares == theirs.sharing.list("bot")
    assert [(one.tenant, one.may_continue, one.may_download) for one in again.shares] == [
        ("ours", False, True),
        ("third", False, False),
    ]
    assert again.shares[0].created_at == first
    assert [one.name for one in ours.registry.list()] == ["bot"]
    assert [one.name for one in ledger.of("fourth").registry.list()] == []
    with pytest.raises(AdapterNotFound):
        ours.registry.get("other", Use.ASK)
    with pytest.raises(NotFound, match="not shared with everybody"):
        theirs.sharing.end("bot", EVERYBODY)
    with pytest.raises(InvalidValue, match="owner"):
        theirs.sharing.put("bot", Share(tenant="theirs"))


def test_checkpoints_of_a_shared_adapter_stay_its_owners(
    ledger: Ledger, ours: Ledger, theirs: Ledger, tmp_path: Path
) -> None:
    published(ledger, theirs, tmp_path)
    theirs.sharing.put("bot", Share(tenant="ours", may_continue=True, may_download=True))
    checkpoint = theirs.checkpoints.list(theirs.jobs.list()[0].id)[0]
    with pytest.raises(AdapterNotFound):
        ours.checkpoints.find(checkpoint.name)


# ---- adapters from elsewhere


def bring(
    ledger: Ledger, path: Path, name: str = "bot", *, files: str = "f" * 64, base_model: str = BASE
) -> tuple[Version, bool]:
    made = brought(files, base_model)
    assert made.imported is not None
    source = adapter_directory(path / made.imported.id)
    (source / MANIFEST_FILE).write_text(dump_manifest(made))
    return ledger.registry.bring_in(name, source, made, promote=True)


def kept(path: Path) -> set[str]:
    return {one.name for one in (path / "artifacts" / "versions").iterdir()}


def test_an_adapter_that_was_brought_is_its_tenants(
    ours: Ledger, theirs: Ledger, tmp_path: Path
) -> None:
    version, new = bring(theirs, tmp_path)
    assert (version.name, new) == ("bot@1", True)
    assert theirs.registry.get("bot").tenant == "theirs"
    with pytest.raises(AdapterNotFound):
        ours.registry.resolve("bot")
    # Whatever it is brought with: also the same files, which would be the same version.
    for other in ({}, {"files": "e" * 64}, {"base_model": "other-base"}):
        with pytest.raises(AdapterNameConflict) as told:
            bring(ours, tmp_path, **other)
        assert str(told.value) == "The adapter name 'bot' is taken. Choose another one."
    assert ours.registry.find_import("bot", BASE, "f" * 64) is None
    with pytest.raises(AdapterNameConflict):
        submit(ours)
    assert kept(tmp_path) == {version.digest}
    assert bring(theirs, tmp_path) == (version, False)
    assert theirs.registry.find_import("bot", BASE, "f" * 64) == version


def test_a_name_that_a_job_of_another_tenant_is_on_its_way_to_cannot_be_brought(
    ledger: Ledger, ours: Ledger, theirs: Ledger, tmp_path: Path
) -> None:
    submit(theirs)
    with pytest.raises(AdapterNameConflict):
        bring(ours, tmp_path)
    assert kept(tmp_path) == set()
    assert bring(theirs, tmp_path)[0].name == "bot@1"
    assert publish(ledger, claim(ledger), tmp_path).name == "bot@2"


def test_the_same_files_of_two_tenants_are_two_adapters(
    ledger: Ledger, ours: Ledger, theirs: Ledger, clock: Clock, tmp_path: Path
) -> None:
    one, _ = bring(ours, tmp_path, "one")
    other, new = bring(theirs, tmp_path, "other")
    assert new
    assert kept(tmp_path) == {one.digest, other.digest}
    theirs.registry.delete("other")
    clock.now += 1
    assert ledger.registry.purge(older_than=0.5) == 1
    assert kept(tmp_path) == {one.digest}
    # The name is free again, and its numbers go on.
    assert bring(ours, tmp_path, "other")[0].name == "other@2"
    assert ours.registry.get("other").tenant == "ours"


def test_of_those_who_want_a_name_at_the_same_moment_one_tenant_gets_it(
    ours: Ledger, theirs: Ledger, tmp_path: Path
) -> None:
    def won(ask: Callable[[], object]) -> bool:
        try:
            ask()
        except AdapterNameConflict:
            return False
        return True

    with ThreadPoolExecutor(3) as pool:
        for turn in range(8):
            name = f"bot-{turn}"
            asks = [
                *(lambda: bring(ours, tmp_path, name),) * 2,  # noqa: B023  awaited in this turn
                lambda: submit(theirs, name),  # noqa: B023
            ]
            first, again, foreign = pool.map(won, asks)
            assert first == again != foreign
            mine = [one.name for one in ours.registry.list()]
            assert (name in mine) is first
    assert {len(one.versions) for one in ours.registry.list()} <= {1}
    assert len(kept(tmp_path)) == len(ours.registry.list())


# ---- repetitions


def test_the_same_idempotency_key_of_two_tenants_is_two_keys(ours: Ledger, theirs: Ledger) -> None:
    key = IdempotencyKey(key="finetune:k", request_digest="a" * 64)
    first = theirs.jobs.submit(new_job("one"), key=key, render=render)
    other = IdempotencyKey(key="finetune:k", request_digest="b" * 64)
    assert ours.jobs.find_reply(other) is None
    second = ours.jobs.submit(new_job("two"), key=other, render=render)
    assert first.body != second.body
    found = theirs.jobs.find_reply(key)
    assert found is not None
    assert found.body == first.body


def test_the_same_request_of_two_tenants_without_a_key_is_two_jobs(
    ours: Ledger, theirs: Ledger, clock: Clock
) -> None:
    again = Sending(digest="d" * 64, retries=1, arrived_at=clock.now)
    first = theirs.jobs.submit(new_job("one"), sending=again, render=render).body
    assert ours.jobs.find_sent(again) is None
    second = ours.jobs.submit(new_job("two"), sending=again, render=render).body
    assert first != second
    assert theirs.jobs.submit(new_job("one"), sending=again, render=render).body == first


def test_a_repeated_upload_of_another_tenant_is_no_twin(
    ours: Ledger, theirs: Ledger, tmp_path: Path
) -> None:
    assert upload(theirs) != upload(ours, retried=True)


# ---- webhooks


def test_an_endpoint_hears_of_its_own_tenants_jobs_only(
    ledger: Ledger, ours: Ledger, theirs: Ledger
) -> None:
    endpoint(ours, "ours")
    endpoint(theirs, "theirs")
    submit(theirs)
    claim(ledger)
    assert len(theirs.webhooks.deliveries("we_theirs")) == 1
    assert ours.webhooks.deliveries("we_ours") == []
    errand = ledger.webhooks.claim(lease_seconds=30)
    assert errand is not None
    assert errand.endpoint.id == "we_theirs"
    ledger.webhooks.settle(errand, Outcome(status=204))


# ---- keys


def test_a_key_is_found_by_its_digest_and_kept_in_no_other_form(ledger: Ledger) -> None:
    new = NewKey(tenant="ours", scopes=(Scope.INFER, Scope.TUNE), name="laptop", lifetime=60)
    made = ledger.keys.make(new)
    found = ledger.keys.find(digest_of(made.secret))
    assert found is not None
    assert (found.tenant, found.scopes, found.name) == ("ours", (Scope.INFER, Scope.TUNE), "laptop")
    assert made.secret.endswith(found.hint)
    assert made.secret not in repr(made) + repr(found)
    assert ledger.keys.find(made.secret) is None
    assert ledger.keys.find(digest_of(made.secret + "x")) is None


def test_a_key_is_good_until_it_expires_or_is_revoked(ledger: Ledger, clock: Clock) -> None:
    passing = ledger.keys.make(NewKey(tenant="ours", scopes=(Scope.INFER,), lifetime=60)).key
    lasting = ledger.keys.make(NewKey(tenant="ours", scopes=(Scope.INFER,))).key
    assert passing.good(clock.now)
    clock.now += 60
    assert not passing.good(clock.now)
    assert lasting.good(clock.now)
    revoked = ledger.keys.revoke(lasting.id)
    assert not revoked.good(clock.now)
    clock.now += 1
    assert ledger.keys.revoke(lasting.id) == revoked
    with pytest.raises(KeyNotFound):
        ledger.keys.revoke("key_none")


def test_uses_of_a_key_are_written_down_now_and_then(ledger: Ledger, clock: Clock) -> None:
    made = ledger.keys.make(NewKey(tenant="ours", scopes=(Scope.INFER,)))
    digest = digest_of(made.secret)
    ledger.keys.find(digest)
    first = clock.now
    clock.now += 599
    ledger.keys.find(digest)
    assert ledger.keys.get(made.key.id).last_used_at == first
    clock.now += 1
    ledger.keys.find(digest)
    assert ledger.keys.get(made.key.id).last_used_at == clock.now


def test_keys_are_listed_newest_first_by_tenant_and_in_pages(ledger: Ledger, clock: Clock) -> None:
    made = []
    for tenant in ("ours", "theirs", "ours"):
        made.append(ledger.keys.make(NewKey(tenant=tenant, scopes=(Scope.INFER,))).key)
        clock.now += 1
    newest_first = made[::-1]
    assert ledger.keys.list() == newest_first
    assert ledger.keys.list(tenant="ours") == [made[2], made[0]]
    assert ledger.keys.list(after=made[2].id, limit=1) == [made[1]]
    assert ledger.of("theirs").keys.list() == [made[1]]
