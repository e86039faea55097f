"""Whoever waits for the warm process can be woken."""

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from trainer.child import WarmProcess


class Silent(WarmProcess):
    """A process that is up and says nothing but what a test says at its far end."""

    def start(self) -> None:
        ours, self.far = socket.socketpair()
        self._connect(ours)


@pytest.fixture
def process() -> Iterator[Silent]:
    process = Silent("a/model", "cpu")
    process.start()
    yield process
    process.far.close()
    process._reap()


def seconds_of_waiting(process: Silent) -> float:
    began = time.monotonic()
    assert process.receive(60) == []
    return time.monotonic() - began


def test_who_waits_for_a_word_is_woken(process: Silent) -> None:
    threading.Timer(0.05, process.wake).start()
    assert seconds_of_waiting(process) < 30


def test_who_was_woken_before_does_not_begin_to_wait(process: Silent) -> None:
    process.wake()
    assert seconds_of_waiting(process) < 30


def test_nobody_waits_for_who_wakes_and_all_of_it_is_one_waking(process: Silent) -> None:
    for _ in range(100_000):
        process.wake()
    assert _rings(process)
    while _rings(process):  # a pipe that was full is not emptied by one look
        pass


def test_a_word_is_heard_all_the_same(process: Silent) -> None:
    process.wake()
    process.far.send(b'{"half": "a line"')
    assert process.receive(60) == []
    assert process._unread


def test_to_wake_who_has_been_stopped_is_nothing(process: Silent) -> None:
    process._reap()
    process.wake()


def _rings(process: Silent) -> bool:
    began = time.monotonic()
    process.receive(0.2)
    return time.monotonic() - began < 0.1
