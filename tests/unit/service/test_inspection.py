"""Every byte of an adapter is read before an engine reads it, and not again for as long as that is remembered."""

from dataclasses import replace
from pathlib import Path

import pytest

from adapters.artifacts import digest_directory
from adapters.errors import ArtifactCorrupt
from adapters.records import Version
from service.inspection import Inspector
from tests.support.samples import adapter_directory, version


@pytest.fixture
def home(tmp_path: Path) -> Path:
    for number in range(3):
        adapter_directory(tmp_path / str(number), content=bytes([65 + number]))
    return tmp_path


def of(home: Path, number: int) -> Version:
    return replace(version(number=number + 1), digest=digest_directory(home / str(number)))


def inspector(home: Path, most_known: int) -> Inspector:
    return Inspector(
        lambda weights: home / str(weights.number - 1),
        lambda _: None,
        max_rank=64,
        most_known=most_known,
    )


def spoil(home: Path, number: int) -> None:
    """Whoever reads it from now on will see."""
    (home / str(number) / "adapter_model.safetensors").write_bytes(b"torn")


def test_what_was_fit_is_not_read_again(home: Path) -> None:
    looked = inspector(home, most_known=2)
    first = of(home, 0)
    assert looked.directory(first) == home / "0"
    spoil(home, 0)
    assert looked.directory(first) == home / "0"


def test_what_is_not_what_it_was_is_refused_each_time(home: Path) -> None:
    looked = inspector(home, most_known=2)
    first = of(home, 0)
    spoil(home, 0)
    for _ in range(2):
        with pytest.raises(ArtifactCorrupt):
            looked.directory(first)


def test_of_more_than_can_be_remembered_the_one_asked_for_longest_ago_is_read_again(
    home: Path,
) -> None:
    looked = inspector(home, most_known=2)
    versions = [of(home, number) for number in range(3)]
    for one in (versions[0], versions[1], versions[0], versions[2]):
        looked.directory(one)
    for number in range(3):
        spoil(home, number)
    looked.directory(versions[0])
    looked.directory(versions[2])
    with pytest.raises(ArtifactCorrupt):
        looked.directory(versions[1])


def test_what_was_of_a_deleted_adapter_is_forgotten_and_nothing_else(home: Path) -> None:
    looked = inspector(home, most_known=2)
    gone, there = replace(of(home, 0), adapter="gone"), of(home, 1)
    looked.directory(gone)
    looked.directory(there)
    looked.forget("gone")
    spoil(home, 0)
    spoil(home, 1)
    assert looked.directory(there) == home / "1"
    with pytest.raises(ArtifactCorrupt):
        looked.directory(gone)
