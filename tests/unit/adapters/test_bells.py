"""Bells that hang in a folder: who rings wakes whoever waits."""

import os
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from adapters.db import bells as module
from adapters.db.bells import Bell, Bells

#: Longer than any of these tests.
NEVER = 60.0


def hears(bell: Bell, within: float = 0.0) -> bool:
    """Whether it has rung, or rings before so many seconds are over."""
    began = time.monotonic()
    bell.wait(max(within, 0.02))
    return time.monotonic() - began < max(within, 0.02)


@pytest.fixture
def bells(tmp_path: Path) -> Bells:
    return Bells(tmp_path / "run" / "bells")


@pytest.fixture
def bell(bells: Bells) -> Iterator[Bell]:
    with bells.hung() as bell:
        yield bell


def test_who_waits_is_woken_by_who_rings(bells: Bells, bell: Bell) -> None:
    woken = threading.Event()

    def wait() -> None:
        bell.wait(NEVER)
        woken.set()

    waiting = threading.Thread(target=wait)
    waiting.start()
    assert not woken.wait(0.05)
    bells.ring()
    assert woken.wait(5)
    waiting.join()


def test_a_ring_before_the_wait_is_heard_once(bells: Bells, bell: Bell) -> None:
    for _ in range(3):
        bells.ring()
    assert hears(bell, NEVER)
    assert not hears(bell)


def test_everybody_hears(bells: Bells) -> None:
    with ExitStack() as stack:
        hung = [stack.enter_context(bells.hung()) for _ in range(5)]
        bells.ring()
        assert all(hears(one, NEVER) for one in hung)


def test_another_process_rings(bells: Bells, bell: Bell) -> None:
    code = (
        "import sys; from pathlib import Path; from adapters.db.bells import Bells;"
        "Bells(Path(sys.argv[1])).ring()"
    )
    subprocess.run([sys.executable, "-c", code, str(bells._folder)], check=True)
    assert hears(bell, NEVER)


def test_a_bell_that_nobody_empties_never_makes_anybody_wait(bells: Bells, bell: Bell) -> None:
    for _ in range((1 << 16) + 10):
        module._ring(next(bells._folder.iterdir()))
    assert hears(bell, NEVER)


def test_it_is_taken_down_in_the_end(bells: Bells) -> None:
    with bells.hung():
        assert len(list(bells._folder.iterdir())) == 1
    assert list(bells._folder.iterdir()) == []
    bells.ring()


def test_one_whose_process_was_killed_is_taken_down_by_who_rings(bells: Bells, bell: Bell) -> None:
    os.mkfifo(bells._folder / "4711-dead")
    bells.ring()
    assert hears(bell, NEVER)
    assert len(list(bells._folder.iterdir())) == 1


def test_one_that_is_being_hung_is_left_alone(bells: Bells, bell: Bell) -> None:
    coming = bells._folder / "4711-comes.new"
    os.mkfifo(coming)
    bells.ring()
    assert coming.exists()


def test_one_is_heard_also_where_a_process_has_many_files_open(bells: Bells) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        with ExitStack() as stack:
            for _ in range(1100):
                stack.enter_context(Path(os.devnull).open())
            bell = stack.enter_context(bells.hung())
            bells.ring()
            assert hears(bell, NEVER)
            assert not hears(bell)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_to_ring_where_there_is_no_folder_is_nothing(tmp_path: Path) -> None:
    Bells(tmp_path / "nowhere").ring()


def test_where_none_can_be_hung_it_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError), Bells(tmp_path / "file").hung():  # noqa: PT011  whichever it is
        pass
