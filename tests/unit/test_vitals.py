"""Whether a soak would find a leak: its yardstick (tests/chaos/vitals.py) beside leaks of a known size."""

import random
import subprocess
import sys
from subprocess import PIPE

from hypothesis import given, strategies as st

from tests.chaos.vitals import LONG_BOUND, SHORT_BOUND, Vitals, growth, rises, tenths, vitals

_MB = 1 << 20


def course(
    seconds: float, every: float, leak: float, seed: int, breath: float, **more: float
) -> list[Vitals]:
    """A process that leaks so many bytes a second, beside an allocator that takes and gives back up to `breath`."""
    dice = random.Random(seed)
    return [
        Vitals(
            at=at * every,
            memory=int(150 * _MB + leak * at * every + dice.uniform(0, breath)),
            files=int(30 + dice.randint(0, 6) + more.get("files", 0) * at * every),
            threads=12,
            tasks=int(20 + dice.randint(0, 6) + more.get("tasks", 0) * at * every),
        )
        for at in range(int(seconds / every))
    ]


@given(st.integers(0, 10_000))
def test_a_short_soak_finds_two_kilobytes_for_each_of_a_hundred_requests_a_second(
    seed: int,
) -> None:
    short = {"seconds": 24, "every": 0.5, "seed": seed, "breath": 2 * _MB}
    assert growth(course(leak=200 * 1024, **short)) > SHORT_BOUND
    assert growth(course(leak=0, **short)) < SHORT_BOUND


@given(st.integers(0, 1_000))
def test_a_long_soak_finds_two_megabytes_an_hour(seed: int) -> None:
    long = {"seconds": 3000, "every": 0.5, "seed": seed, "breath": 2 * _MB}
    assert growth(course(leak=2 * _MB / 3600, **long)) > LONG_BOUND
    assert growth(course(leak=0, **long)) < LONG_BOUND


@given(st.integers(0, 10_000))
def test_files_and_tasks_that_are_not_closed_show(seed: int) -> None:
    short = {"seconds": 24, "every": 0.5, "leak": 0, "seed": seed, "breath": 0}
    steady = rises(course(**short))
    assert max(steady.values()) <= 6
    leaking = rises(course(**short, files=1, tasks=2))
    assert leaking["files"] > 8
    assert leaking["tasks"] > 8
    assert leaking["threads"] == 0


#: A process that nobody else opens files or starts threads in.
_SEEN = """
import os, threading
print("before", flush=True)
input()
files = [open(os.devnull) for _ in range(20)]
threading.Thread(target=threading.Event().wait, daemon=True).start()
kept = bytearray(os.urandom(40 << 20))
print("after", flush=True)
input()
"""


def test_a_process_is_seen_as_it_is() -> None:
    command = [sys.executable, "-c", _SEEN]
    with subprocess.Popen(command, stdin=PIPE, stdout=PIPE, text=True) as seen:
        assert seen.stdin
        assert seen.stdout
        assert seen.stdout.readline() == "before\n"
        before = vitals(seen.pid, 0)
        print(file=seen.stdin, flush=True)
        assert seen.stdout.readline() == "after\n"
        after = vitals(seen.pid, 1)
        print(file=seen.stdin, flush=True)
    assert after.files - before.files == 20
    assert after.threads - before.threads == 1
    assert growth([before, after]) > 30 * _MB


def test_memory_is_told_by_ten_parts_of_the_time() -> None:
    grown = course(seconds=47, every=0.5, leak=_MB, seed=0, breath=0)
    assert tenths(grown) == sorted(tenths(grown))
    assert len(tenths(grown)) == 10
    assert len(tenths(grown[:4])) == 4
