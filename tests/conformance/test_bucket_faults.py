"""A bucket on which things go wrong: what is tried again, what is refused, and that nothing bad is ever believed."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from adapters.artifacts import digest_directory
from adapters.bucket.artifacts import BucketArtifacts
from adapters.bucket.cache import Cache
from adapters.bucket.client import PIECE, Absent, Bucket
from adapters.bucket.metrics import StoreMetrics
from adapters.bucket.states import BucketStates
from adapters.errors import ArtifactCorrupt, StoreUnavailable
from tests.support.faulty_link import FaultyLink
from tests.support.samples import adapter_directory

#: Longer than a few faults in a row take; and hardly any, where it is known that nobody answers.
PATIENT, IMPATIENT = 10.0, 0.1


@pytest.fixture
def link(seaweed: Any) -> Iterator[FaultyLink]:
    with FaultyLink(seaweed.port) as link:
        yield link


@pytest.fixture
def url(seaweed: Any) -> str:
    return seaweed.url()


def bucket(
    seaweed: Any, home: Path, url: str, link: FaultyLink | None, patience: float = PATIENT
) -> Bucket:
    settings = seaweed.settings(home, url, port=link and link.port)
    return Bucket(settings.store, patience=patience)


def artifacts(of: Bucket, home: Path) -> BucketArtifacts:
    return BucketArtifacts(of, Cache(home / "cache", most_bytes=1 << 30))


def made(path: Path, large: int = 0) -> Path:
    source = adapter_directory(path)
    if large:
        (source / "large.bin").write_bytes(bytes(range(256)) * (large // 256))
    return source


@pytest.mark.parametrize(
    ("fault", "large"),
    [
        *((fault, 0) for fault in ("cut", "error", "torn", "short", "forged", "etag", "slow")),
        *((fault, PIECE + 4096) for fault in ("torn", "forged", "etag")),
    ],
)
def test_a_version_arrives_whole_whatever_happens_on_the_way(
    seaweed: Any, link: FaultyLink, url: str, tmp_path: Path, fault: str, large: int
) -> None:
    plain = artifacts(bucket(seaweed, tmp_path, url, None), tmp_path / "here")
    digest = plain.put_version(made(tmp_path / "made", large))
    link.plan(fault, times=3, method="GET")
    there = artifacts(bucket(seaweed, tmp_path, url, link), tmp_path / "there")
    assert digest_directory(there.version(digest)) == digest
    assert link.all_done


@pytest.mark.parametrize("fault", ["cut", "error", "torn", "short", "forged", "etag", "slow"])
def test_a_file_arrives_whole_whatever_happens_on_the_way(
    seaweed: Any, link: FaultyLink, url: str, tmp_path: Path, fault: str
) -> None:
    """`short` says of its size that it is 0."""
    content = b"question, answer" * 99
    (tmp_path / "data.jsonl").write_bytes(content)
    plain = artifacts(bucket(seaweed, tmp_path, url, None), tmp_path / "here")
    plain.put_file(tmp_path / "data.jsonl", "file-1")
    link.plan(fault, method="HEAD")
    link.plan(fault, method="GET")
    there = artifacts(bucket(seaweed, tmp_path, url, link), tmp_path / "there")
    assert there.file("file-1", sha256(content).hexdigest()).read_bytes() == content
    assert link.all_done


@pytest.mark.parametrize(
    ("fault", "large"),
    [
        *((fault, 0) for fault in ("cut", "error", "lost", "slow", "etag")),
        *((fault, PIECE + 4096) for fault in ("cut", "lost", "etag")),
    ],
)
def test_a_version_is_stored_whole_whatever_happens_on_the_way(
    seaweed: Any, link: FaultyLink, url: str, tmp_path: Path, fault: str, large: int
) -> None:
    link.plan(fault, times=2, method="PUT")
    link.plan(fault, times=1, method="HEAD")
    here = artifacts(bucket(seaweed, tmp_path, url, link), tmp_path / "here")
    digest = here.put_version(made(tmp_path / "made", large))
    assert link.all_done
    there = artifacts(bucket(seaweed, tmp_path, url, None), tmp_path / "there")
    assert digest_directory(there.version(digest)) == digest


def test_bytes_that_stay_wrong_are_never_handed_out(
    seaweed: Any, link: FaultyLink, url: str, tmp_path: Path
) -> None:
    plain = artifacts(bucket(seaweed, tmp_path, url, None), tmp_path / "here")
    digest = plain.put_version(made(tmp_path / "made"))
    there = artifacts(bucket(seaweed, tmp_path, url, link), tmp_path / "there")
    link.plan("forged", times=100, method="GET", path="adapter_model")
    with pytest.raises(ArtifactCorrupt, match="adapter_model"):
        there.version(digest)
    assert not list((tmp_path / "there" / "cache" / "versions").iterdir())
    assert not list((tmp_path / "there" / "cache" / "staging").iterdir())


def test_a_version_of_which_only_a_part_was_stored_is_not_there(
    seaweed: Any, link: FaultyLink, url: str, tmp_path: Path
) -> None:
    source = made(tmp_path / "made")
    link.plan("error", times=100, method="PUT", path=".index")
    here = artifacts(bucket(seaweed, tmp_path, url, link, IMPATIENT), tmp_path / "here")
    with pytest.raises(StoreUnavailable):
        here.put_version(source)
    there = artifacts(bucket(seaweed, tmp_path, url, None), tmp_path / "there")
    with pytest.raises(ArtifactCorrupt, match="missing"):
        there.version(digest_directory(source))
    # It is seen by a sweep all the same, and another try completes it.
    assert [stored.name for stored in there.stored()] == [digest_directory(source)]
    digest = there.put_version(source)
    elsewhere = artifacts(bucket(seaweed, tmp_path, url, None), tmp_path / "elsewhere")
    assert digest_directory(elsewhere.version(digest)) == digest


def test_what_is_stored_is_never_overwritten(seaweed: Any, url: str, tmp_path: Path) -> None:
    of = bucket(seaweed, tmp_path, url, None)
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda number: of.put("one", b"%03d" % number), range(64)))
    first = of.read("one")
    of.put("one", b"and")
    assert of.read("one") == first


def test_while_nobody_answers_everybody_is_told_at_once_and_what_is_here_goes_on(
    seaweed: Any, link: FaultyLink, url: str, tmp_path: Path
) -> None:
    here = artifacts(bucket(seaweed, tmp_path, url, link, IMPATIENT), tmp_path / "here")
    digest = here.put_version(made(tmp_path / "made"))
    link.down = True
    assert digest_directory(here.version(digest)) == digest
    lent = here.lend_version(digest, tmp_path / "lent")
    assert digest_directory(lent) == digest
    with pytest.raises(StoreUnavailable) as refused:
        here.put_file(tmp_path / "made" / "adapter_config.json", "file-1")
    assert refused.value.retry_after
    seen = len(link.seen)
    for _ in range(50):
        with pytest.raises(StoreUnavailable):
            here.version("0" * 64)
    assert len(link.seen) == seen
    here.delete_version(digest)  # is left to a sweep
    link.down = False
    time.sleep(1.1)  # for which it does not ask
    here.put_file(tmp_path / "made" / "adapter_config.json", "file-1")


def test_all_who_want_the_same_wait_for_one_to_fetch_it(
    seaweed: Any, link: FaultyLink, url: str, tmp_path: Path
) -> None:
    plain = artifacts(bucket(seaweed, tmp_path, url, None), tmp_path / "here")
    digest = plain.put_version(made(tmp_path / "made"))
    there = artifacts(bucket(seaweed, tmp_path, url, link), tmp_path / "there")
    link.plan("slow", method="GET")
    with ThreadPoolExecutor(8) as pool:
        paths = set(pool.map(lambda _: there.version(digest), range(8)))
    assert len(paths) == 1
    fetched = [path for method, path in link.seen if method == "GET" and "adapter_model" in path]
    assert len(fetched) == 1


def test_a_key_that_is_refused_is_not_said(
    seaweed: Any, url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = seaweed.settings(tmp_path, url).store
    wrong = settings.model_copy(
        update={"secret_access_key": type(settings.secret_access_key)("wr0ng")}
    )
    with pytest.raises(StoreUnavailable) as refused:
        Bucket(wrong, patience=IMPATIENT).put("one", b"1")
    assert "does not answer" in caplog.text
    assert "wr0ng" not in caplog.text + str(refused.value) + repr(wrong)


# ---- checkpoints of running jobs


def state(home: Path, step: int) -> Path:
    directory = home / "checkpoints" / f"step-{step:08d}"
    directory.mkdir(parents=True)
    (directory / "state.json").write_text(str(step))
    (directory / "tensors.safetensors").write_bytes(b"t" * step)
    return directory


def test_another_machine_goes_on_from_the_newest_checkpoint(
    seaweed: Any, url: str, tmp_path: Path
) -> None:
    here = BucketStates(bucket(seaweed, tmp_path, url, None))
    there = BucketStates(bucket(seaweed, tmp_path, url, None))
    assert there.fetch("ftjob-1", tmp_path / "none", beyond="") is None
    for step in (2, 4, 11):
        here.put("ftjob-1", state(tmp_path / "here", step))
    assert there.fetch("ftjob-1", tmp_path / "there", beyond="") == "step-00000011"
    assert (tmp_path / "there" / "step-00000011" / "state.json").read_text() == "11"
    assert there.fetch("ftjob-1", tmp_path / "there", beyond="step-00000011") is None
    assert there.jobs() == {"ftjob-1"}
    there.delete("ftjob-1")
    assert here.jobs() == set()
    assert here.fetch("ftjob-1", tmp_path / "none", beyond="") is None


def test_a_checkpoint_of_which_only_a_part_was_sent_is_passed_over(
    seaweed: Any, link: FaultyLink, url: str, tmp_path: Path
) -> None:
    here = BucketStates(bucket(seaweed, tmp_path, url, link, IMPATIENT))
    here.put("ftjob-1", state(tmp_path / "here", 2))
    link.plan("error", times=100, method="PUT", path=".index")
    with pytest.raises(StoreUnavailable):
        here.put("ftjob-1", state(tmp_path / "here", 4))
    there = BucketStates(bucket(seaweed, tmp_path, url, None))
    assert there.fetch("ftjob-1", tmp_path / "there", beyond="") == "step-00000002"


def test_whoever_looks_on_sees_every_try_and_every_byte(
    seaweed: Any, tmp_path: Path, url: str, link: FaultyLink
) -> None:
    registry = CollectorRegistry()
    settings = seaweed.settings(tmp_path, url, port=link.port).store
    watched = Bucket(settings, patience=PATIENT, watch=StoreMetrics(registry))

    def seen(what: str, **labels: str) -> float:
        return registry.get_sample_value(f"graft_object_store_{what}_total", labels) or 0.0

    watched.put("files/a", b"twelve bytes")
    assert watched.read("files/a") == b"twelve bytes"
    assert watched.find("files/b") is None
    with pytest.raises(Absent):
        watched.read("files/b")
    assert list(watched.entries("files/"))
    watched.delete(["files/a"])
    assert seen("bytes", operation="put") == seen("bytes", operation="get") == 12
    for operation, times in {"put": 1, "get": 2, "head": 1, "list": 2, "delete": 1}.items():
        assert seen("requests", operation=operation, outcome="ok") == times, operation
        assert seen("requests", operation=operation, outcome="error") == 0, operation

    link.down = True
    impatient = Bucket(
        settings, patience=IMPATIENT, watch=StoreMetrics(registry := CollectorRegistry())
    )
    with pytest.raises(StoreUnavailable):
        impatient.find("files/a")
    assert seen("requests", operation="head", outcome="error") >= 1
    assert seen("requests", operation="head", outcome="ok") == 0
