"""What a machine keeps of the bucket: whole, the latest, and never less than what is in use."""

import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from adapters.bucket.cache import Cache

SIZE = 100


def bringing(content: bytes = b"x" * SIZE) -> Callable[[Path], None]:
    def bring(target: Path) -> None:
        target.mkdir()
        (target / "weights").write_bytes(content)

    return bring


def refusing(_: Path) -> None:
    raise AssertionError("it is here already")


def aged(cache: Path, key: str, seconds: float) -> None:
    then = time.time() - seconds
    os.utime(cache / key, (then, then))


def here(root: Path) -> list[str]:
    return sorted(path.name for path in (root / "versions").iterdir())


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path, most_bytes=3 * SIZE)


def fill(cache: Cache, root: Path, names: str, *, age: float = 10_000) -> None:
    for at, name in enumerate(names):
        cache.get(f"versions/{name}", bringing())
        aged(root, f"versions/{name}", age - at)


def test_what_is_here_is_not_brought_again(cache: Cache) -> None:
    path = cache.get("versions/a", bringing())
    assert cache.get("versions/a", refusing) == path


def test_what_was_used_longest_ago_makes_room(cache: Cache, tmp_path: Path) -> None:
    fill(cache, tmp_path, "abc")
    cache.get("versions/a", refusing)  # used just now
    cache.get("versions/d", bringing())
    assert here(tmp_path) == ["a", "c", "d"]


def test_all_that_is_here_is_looked_at_seldom_and_there_is_hardly_ever_too_much(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two processes with one folder; what they bring was used long ago as soon as it is here."""
    looks: list[int] = []
    entries = Cache._entries

    def counted(cache: Cache) -> Iterator[tuple[float, int, Path]]:
        found = list(entries(cache))
        looks.append(len(found))
        return iter(found)

    monkeypatch.setattr(Cache, "_entries", counted)
    both = [Cache(tmp_path, most_bytes=128 * SIZE, grace=0) for _ in range(2)]
    for number in range(400):
        both[number % 2].keep(f"files/{number}", content(tmp_path / "new", number))
        (tmp_path / "new").unlink()
    assert max(looks) <= 128 + 2 * (128 // 64 + 1)
    assert len(looks) <= 400 / 2
    left = {path.name for path in (tmp_path / "files").iterdir()}
    assert {str(number) for number in range(400 - 100, 400)} <= left


def content(path: Path, number: int) -> Path:
    path.write_bytes(bytes([number % 256]) * SIZE)
    os.utime(path, (number, number))
    return path


def test_what_was_handed_out_a_moment_ago_stays_whatever_comes(
    cache: Cache, tmp_path: Path
) -> None:
    fill(cache, tmp_path, "abcdef", age=60)
    assert here(tmp_path) == list("abcdef")


def test_what_is_lent_stays_and_is_as_it_was_once_its_name_in_the_cache_is_gone(
    cache: Cache, tmp_path: Path
) -> None:
    fill(cache, tmp_path, "abc")
    lent = cache.lend("versions/a", tmp_path / "lent", refusing)
    aged(tmp_path, "versions/a", 20_000)
    cache.get("versions/d", bringing())
    assert here(tmp_path) == ["a", "c", "d"]
    cache.drop("versions/a")
    assert (lent / "weights").read_bytes() == b"x" * SIZE
    assert cache.lend("versions/a", tmp_path / "lent", refusing) == lent


def test_what_was_lent_makes_room_once_it_is_given_back(cache: Cache, tmp_path: Path) -> None:
    fill(cache, tmp_path, "abc")
    lent = cache.lend("versions/a", tmp_path / "lent", refusing)
    (lent / "weights").unlink()
    aged(tmp_path, "versions/a", 20_000)
    cache.get("versions/d", bringing())
    assert here(tmp_path) == ["b", "c", "d"]


def test_what_could_not_be_brought_leaves_nothing(cache: Cache, tmp_path: Path) -> None:
    def half(target: Path) -> None:
        bringing()(target)
        raise OSError("cut off")

    with pytest.raises(OSError, match="cut off"):
        cache.get("versions/a", half)
    assert here(tmp_path) == []
    assert not list((tmp_path / "staging").iterdir())
    cache.get("versions/a", bringing())


def test_many_who_want_the_same_have_one_bring_it(cache: Cache) -> None:
    brought = []

    def slowly(target: Path) -> None:
        brought.append(target)
        time.sleep(0.05)
        bringing()(target)

    with ThreadPoolExecutor(8) as pool:
        paths = set(pool.map(lambda _: cache.get("versions/a", slowly), range(8)))
    assert (len(paths), len(brought)) == (1, 1)


def test_two_processes_that_bring_the_same_at_once_both_have_it(tmp_path: Path) -> None:
    one, other = (Cache(tmp_path, most_bytes=SIZE) for _ in range(2))

    def meanwhile(target: Path) -> None:
        other.get("versions/a", bringing())
        bringing()(target)

    path = one.get("versions/a", meanwhile)
    assert (path / "weights").read_bytes() == b"x" * SIZE
    assert not list((tmp_path / "staging").iterdir())


def test_what_a_killed_process_left_half_brought_is_swept_up(cache: Cache, tmp_path: Path) -> None:
    bringing()(tmp_path / "staging" / "left")
    cache.sweep(older_than=3600)
    assert len(list((tmp_path / "staging").iterdir())) == 1
    cache.sweep(older_than=-1)
    assert not list((tmp_path / "staging").iterdir())
