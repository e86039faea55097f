"""Who computes, and who makes room: the trainer's lock and the engine's look, which share a folder and nothing else."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from trainer.warm.presence import Presence
from vllm_plugin.threads import RECENT, Threads


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def engine(
    folder: Path, said: list[int], clock: Clock, name: str = "engine", few: int = 1
) -> Threads:
    return Threads(folder, name, most=4, few=few, use=said.append, clock=clock)


def step(threads: Threads) -> None:
    with threads.computing():
        pass


def test_an_engine_by_itself_takes_all(tmp_path: Path) -> None:
    said: list[int] = []
    threads = engine(tmp_path / "computing", said, Clock())
    step(threads)
    step(threads)
    assert said == [4]


def test_beside_a_training_process_it_takes_few_until_that_has_ended(tmp_path: Path) -> None:
    said: list[int] = []
    clock = Clock()
    threads, presence = engine(tmp_path, said, clock), Presence(tmp_path / "m.trainer")
    presence.begin()
    presence.begin()
    step(threads)
    presence.end()
    step(threads)  # it was there a moment ago
    clock.now += RECENT
    step(threads)
    assert said == [1, 4]


def test_a_training_process_without_jobs_takes_nothing(tmp_path: Path) -> None:
    said: list[int] = []
    presence = Presence(tmp_path / "m.trainer")
    presence.end()
    step(engine(tmp_path, said, Clock()))
    assert said == [4]


def test_two_engines_make_room_for_each_other(tmp_path: Path) -> None:
    said: list[int] = []
    other: list[int] = []
    clock = Clock()
    one, two = engine(tmp_path, said, clock), engine(tmp_path, other, clock, name="other")
    with one.computing():
        step(two)
    step(one)
    assert (said, other) == ([4], [1])


def test_the_engines_own_lock_ends_with_the_step(tmp_path: Path) -> None:
    said: list[int] = []
    one = engine(tmp_path, [], Clock())
    with pytest.raises(RuntimeError), one.computing():
        raise RuntimeError
    step(engine(tmp_path, said, Clock(), name="other"))
    assert said == [4]


def test_a_process_that_was_killed_is_gone(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from trainer.warm.presence import Presence\n"
        "presence = Presence(Path(sys.argv[1])); presence.begin(); print('there', flush=True); input()"
    )
    said: list[int] = []
    clock = Clock()
    threads = engine(tmp_path, said, clock)
    with subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path / "m.trainer")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"there\n"
        step(threads)
        process.kill()
    clock.now += RECENT
    step(threads)
    assert said == [1, 4]


def test_where_all_and_few_are_the_same_nobody_looks(tmp_path: Path) -> None:
    said: list[int] = []
    Presence(tmp_path / "m.trainer").begin()
    step(engine(tmp_path, said, Clock(), few=4))
    assert said == [4]


def test_an_engine_answers_also_when_the_folder_is_gone(tmp_path: Path) -> None:
    said: list[int] = []
    threads = engine(tmp_path / "computing", said, Clock())
    shutil.rmtree(tmp_path / "computing")
    step(threads)
    assert said == [4]


def test_threads_can_be_chosen_before_the_first_step(tmp_path: Path) -> None:
    said: list[int] = []
    presence = Presence(tmp_path / "m.trainer")
    presence.begin()
    engine(tmp_path, said, Clock()).choose()
    assert said == [1]


def test_who_can_have_no_lock_trains_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for presence in (Presence(None), Presence(tmp_path / "file" / "m.trainer")):
        presence.begin()
        presence.end()
