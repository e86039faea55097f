"""The wire between us and a rival's process, with a rival that answers from a list."""

import json
import socket
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from bench.measure import CannotRun, Settings
from bench.rivals.client import Folders, Rival, order_of, rival_python
from bench.rivals.orders import Reply, decode_order, decode_reply, encode
from bench.workloads import IGNORED, lesson

REPLY = Reply(seconds=1.5, losses=[9.0, 8.0], grad_norms=[2.0, 1.0])
FOLDERS = Folders(Path("/model"), Path("/adapter"), Path("/scratch"))


@pytest.fixture
def answering():
    """A rival and the orders that it was given."""
    ours, theirs = socket.socketpair()
    orders = []

    def answer():
        with theirs, theirs.makefile("rb") as lines:
            theirs.sendall(b"\n")
            for line in lines:
                orders.append(decode_order(line))
                if not Path(orders[-1].scratch).is_dir():
                    return
                theirs.sendall(encode(replace(REPLY, seconds=float(len(orders)))))

    thread = threading.Thread(target=answer)
    thread.start()
    rival = Rival(ours, Path("/model"))
    rival.wait_until_ready()
    yield rival, orders
    rival.close()
    thread.join()


def test_an_order_says_what_the_lesson_says():
    order = order_of(lesson(3, [4, 2]), 2, FOLDERS, tuned=True)
    assert decode_order(encode(order)) == order
    assert order.total_steps == 3
    assert [len(row) for row in order.rows] == [4, 2]
    assert order.labels[0][:2] == [IGNORED, IGNORED]
    assert order.labels[0][2:] == order.rows[0][2:]


def test_orders_and_replies_are_lines_of_json():
    line = encode(REPLY)
    assert line.count(b"\n") == 1
    assert json.loads(line)["seconds"] == 1.5
    assert decode_reply(line) == REPLY


def test_lessons_are_trained_one_after_the_other_and_their_times_added(answering):
    rival, orders = answering
    lessons = [lesson(1, [4]), lesson(2, [4])]
    done = rival.train(lessons, 1, lambda one: Path(f"/initial-{one.seed}"), tuned=False)
    assert done.seconds == 3.0
    assert done.losses == (9.0, 8.0, 9.0, 8.0)
    assert [order.adapter for order in orders] == ["/initial-1", "/initial-2"]
    assert orders[0].scratch != orders[1].scratch
    assert not Path(orders[0].scratch).exists()


def test_a_rival_that_ends_is_no_figure():
    ours, theirs = socket.socketpair()
    theirs.close()
    rival = Rival(ours, Path("/model"))
    with pytest.raises(AssertionError, match="ended while it started"):
        rival.wait_until_ready()
    rival.close()


def test_a_missing_environment_is_said_with_the_remedy(tmp_path):
    settings = Settings(rounds=1, home=tmp_path, rivals=tmp_path)
    with pytest.raises(CannotRun, match="make bench-rivals"):
        rival_python(settings, "trl")
