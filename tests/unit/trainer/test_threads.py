"""Training steps aside for whoever else wants the cores."""

import os
import sys

import pytest

from tests.support.clock import Clock
from trainer.warm.threads import INTERVAL, QUIET_LOOKS, Threads, others_cpu_seconds, threads_for


class Machine:
    """Others at work on some cores, as /proc/stat would tell."""

    def __init__(self):
        self.clock = Clock()
        self.used = 100.0
        self.cores = 0.0
        self.said = []
        self.threads = Threads(
            2, 8, others=lambda: self.used, use=self.said.append, clock=self.clock
        )

    def look(self, *, after=INTERVAL):
        self.clock.tick(after)
        if self.used is not None:
            self.used += after * self.cores
        self.threads.look()
        return self.threads.count


def test_it_starts_with_the_least():
    machine = Machine()
    assert machine.threads.count == 2
    assert machine.said == [2]


def test_all_cores_after_some_quiet_looks_and_no_sooner():
    machine = Machine()
    assert [machine.look() for _ in range(QUIET_LOOKS + 2)] == [*[2] * (QUIET_LOOKS - 1), 8, 8, 8]
    assert machine.said == [2, 8], "it is said once"


def test_it_steps_aside_at_the_first_sign_of_work():
    machine = Machine()
    for _ in range(QUIET_LOOKS):
        machine.look()
    machine.cores = 1.0
    assert machine.look() == 2
    machine.cores = 0.0
    assert [machine.look() for _ in range(QUIET_LOOKS)][-2:] == [2, 8]


def test_the_first_look_after_a_pause_tells_of_the_pause():
    machine = Machine()
    machine.cores = 0.05
    assert machine.look(after=10.0) == 8
    machine.cores = 0.5
    assert machine.look(after=10.0) == 2


def test_housekeeping_is_not_work():
    machine = Machine()
    machine.cores = 0.1
    assert [machine.look() for _ in range(QUIET_LOOKS)][-1] == 8


def test_looks_in_between_cost_nothing_and_say_nothing():
    machine = Machine()
    machine.cores = 4.0
    for _ in range(3):
        machine.look(after=INTERVAL / 5)
    machine.cores = 0.0
    assert machine.said == [2]
    assert machine.threads._looked_at < machine.clock()


@pytest.mark.parametrize("silent_from", [0, 2])
def test_where_nobody_knows_it_stays_as_it_is(silent_from):
    machine = Machine()
    for _ in range(silent_from):
        machine.look()
    machine.used = None
    assert {machine.look() for _ in range(10)} == {2}


def test_a_fixed_number_is_for_ever():
    said = []
    threads = threads_for(3, said.append)
    threads._looked_at -= 100
    threads.look()
    assert (threads.count, said) == (3, [3])


def test_all_cores_of_this_machine_are_the_most_and_half_of_them_the_least():
    said = []
    threads = threads_for(0, said.append)
    cores = os.cpu_count() or 1
    assert (threads.count, threads._most) == (max(1, cores // 2), cores)


def test_ones_own_work_is_not_that_of_others():
    if sys.platform != "linux":
        assert others_cpu_seconds() is None
        return
    before, own = others_cpu_seconds(), os.times()
    while os.times().user - own.user < 0.3:
        pass
    spent = os.times().user - own.user
    cores = os.cpu_count() or 1
    rise = others_cpu_seconds() - before
    # On a machine that others use too, no more than they can have done in that time.
    assert -0.05 < rise < 20 * spent * (cores - 0.5)
