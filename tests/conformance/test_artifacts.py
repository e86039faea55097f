"""Where bytes are kept: a folder, or a bucket that two machines share. What holds of one holds of the other."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from adapters.artifacts import Artifacts, LocalArtifacts, digest_directory, digest_file
from adapters.bucket.artifacts import BucketArtifacts
from adapters.bucket.cache import Cache
from adapters.bucket.client import Bucket
from adapters.bucket.parts import BucketParts
from adapters.errors import ArtifactCorrupt
from adapters.files import Part
from adapters.parts import LocalParts, Parts
from tests.support.samples import adapter_directory

LARGE = 9 << 20


@dataclass
class Machine:
    artifacts: Artifacts
    parts: Parts


Machines = Callable[[str], Machine]


@pytest.fixture(params=["folder", "bucket"])
def machines(request: pytest.FixtureRequest, tmp_path: Path) -> Machines:
    """Makes machines with the same store; with a folder, several hands of one."""
    if request.param == "folder":
        return lambda _: Machine(LocalArtifacts(tmp_path / "store"), LocalParts(tmp_path / "parts"))
    seaweed: Any = request.getfixturevalue("seaweed")
    settings = seaweed.settings(tmp_path, seaweed.url())

    def made(name: str) -> Machine:
        bucket, cache = Bucket(settings.store), Cache(tmp_path / name, most_bytes=1 << 30)
        return Machine(
            BucketArtifacts(bucket, cache), BucketParts(bucket, tmp_path / name / "staging")
        )

    return made


def write(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("size", [0, 1, LARGE])
def test_a_file_is_there_on_every_machine(machines: Machines, tmp_path: Path, size: int) -> None:
    source = write(
        tmp_path / "made" / "rows", bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    )
    content, digest = source.read_bytes(), digest_file(source)
    machines("here").artifacts.put_file(source, "file-1")
    machines("here").artifacts.take_file(source, "file-2")
    assert not source.exists()
    for name in ("here", "there"):
        artifacts = machines(name).artifacts
        assert artifacts.file("file-1", digest).read_bytes() == content
        assert artifacts.file("file-2", digest).read_bytes() == content


def test_a_version_is_there_on_every_machine_under_the_digest_of_its_files(
    machines: Machines, tmp_path: Path
) -> None:
    source = adapter_directory(tmp_path / "made")
    write(source / "large.bin", b"w" * LARGE)
    digest = machines("here").artifacts.put_version(source)
    assert digest == digest_directory(source)
    assert machines("there").artifacts.put_version(source) == digest
    for name in ("here", "there", "elsewhere"):
        directory = machines(name).artifacts.version(digest)
        assert digest_directory(directory) == digest
        assert sorted(path.name for path in directory.iterdir()) == sorted(
            path.name for path in source.iterdir()
        )


def test_all_who_store_the_same_version_at_once_have_stored_it(
    machines: Machines, tmp_path: Path
) -> None:
    source = adapter_directory(tmp_path / "made")
    stores = [machines(f"machine-{number}").artifacts for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        digests = set(pool.map(lambda store: store.put_version(source), stores))
    assert digests == {digest_directory(source)}
    there = machines("there").artifacts.version(digests.pop())
    assert digest_directory(there) == digest_directory(source)


def test_what_is_not_there_is_an_error_that_says_so(machines: Machines) -> None:
    artifacts = machines("here").artifacts
    with pytest.raises(ArtifactCorrupt, match="missing"):
        artifacts.file("file-1", "0" * 64)
    with pytest.raises(ArtifactCorrupt, match="missing"):
        artifacts.version("0" * 64)
    artifacts.delete_file("file-1")
    artifacts.delete_version("0" * 64)


def test_what_is_deleted_is_gone_for_whoever_has_not_had_it(
    machines: Machines, tmp_path: Path
) -> None:
    artifacts = machines("here").artifacts
    rows = write(tmp_path / "rows", b"rows")
    artifacts.put_file(rows, "file-1")
    digest = artifacts.put_version(adapter_directory(tmp_path / "made"))
    artifacts.delete_file("file-1")
    artifacts.delete_version(digest)
    for name in ("here", "there"):
        with pytest.raises(ArtifactCorrupt):
            machines(name).artifacts.file("file-1", digest_file(rows))
        with pytest.raises(ArtifactCorrupt):
            machines(name).artifacts.version(digest)
    assert list(artifacts.stored()) == []


def test_what_is_lent_has_the_bytes_of_what_it_was_lent_from(
    machines: Machines, tmp_path: Path
) -> None:
    artifacts = machines("here").artifacts
    rows = write(tmp_path / "rows", b"rows")
    artifacts.put_file(rows, "file-1")
    digest = artifacts.put_version(adapter_directory(tmp_path / "made"))
    borrower = machines("there").artifacts
    for _ in range(2):  # a second time too, as after a restart
        lent = borrower.lend_file("file-1", digest_file(rows), tmp_path / "lent")
        assert lent.read_bytes() == b"rows"
        directory = borrower.lend_version(digest, tmp_path / "lent")
        assert digest_directory(directory) == digest


def test_everything_that_is_stored_is_listed_once(machines: Machines, tmp_path: Path) -> None:
    artifacts = machines("here").artifacts
    for number in range(3):
        artifacts.put_file(write(tmp_path / "rows", b"rows"), f"file-{number}")
    digests = [
        artifacts.put_version(adapter_directory(tmp_path / str(number), content=b"%d" % number))
        for number in range(3)
    ]
    listed = sorted((stored.kind, stored.name) for stored in machines("there").artifacts.stored())
    assert listed == sorted(
        [("file", f"file-{number}") for number in range(3)]
        + [("version", digest) for digest in digests]
    )


def test_a_store_belongs_to_the_ledger_that_asked_first(machines: Machines) -> None:
    assert machines("here").artifacts.belongs_to("a")
    assert not machines("there").artifacts.belongs_to("b")
    assert machines("there").artifacts.belongs_to("a")


def test_parts_are_joined_on_another_machine(machines: Machines, tmp_path: Path) -> None:
    contents = {"part_1": b"one, ", "part_2": b"two, ", "part_3": b"three"}
    parts = []
    for name, content in contents.items():
        source = write(tmp_path / name, content)
        parts.append(
            Part(
                id=name, upload_id="u", bytes=len(content), digest=digest_file(source), created_at=0
            )
        )
        machines("here").parts.take(source, name)
        assert not source.exists()
    there = machines("there").parts
    with there.joined([parts[1], parts[0], parts[2], parts[1]]) as joined:
        assert joined.path.read_bytes() == b"two, one, threetwo, "
        assert (joined.bytes, joined.sha256) == (20, digest_file(joined.path))
    assert not joined.path.exists()
    there.delete("part_1")
    with pytest.raises(ArtifactCorrupt, match="part_1"), machines("here").parts.joined(parts):
        pass


def test_parts_that_no_upload_can_want_are_swept_up(machines: Machines, tmp_path: Path) -> None:
    parts = machines("here").parts
    source = write(tmp_path / "part", b"one")
    part = Part(id="part_1", upload_id="u", bytes=3, digest=digest_file(source), created_at=0)
    parts.take(source, part.id)
    parts.sweep(older_than=3600)
    with parts.joined([part]) as joined:
        assert joined.bytes == 3
    parts.sweep(older_than=-3600)
    with pytest.raises(ArtifactCorrupt), parts.joined([part]):
        pass
