"""What every cluster must do that trainers are placed on. Run against the fake here, and against Ray in
tests/integration/ray. A cluster is given with two places, and without trainers."""

import time
from collections.abc import Callable

from trainer.ray.protocol import Cluster, State

#: A process is started for each trainer of a real one.
PATIENCE = 60.0
#: Of this name, none can be started.
HOPELESS = "trainer-hopeless"


def it_has_as_many_devices_as_places(cluster: Cluster) -> None:
    assert cluster.devices() == 2
    assert dict(cluster.trainers()) == {}


def one_of_a_name_is_placed_once_and_works(cluster: Cluster) -> None:
    cluster.place("trainer-0")
    cluster.place("trainer-0")
    until(lambda: dict(cluster.trainers()) == {"trainer-0": State.WORKING})
    cluster.place("trainer-0")
    assert dict(cluster.trainers()) == {"trainer-0": State.WORKING}


def who_finds_no_place_waits_until_one_is_free(cluster: Cluster) -> None:
    for name in ("trainer-0", "trainer-1"):
        cluster.place(name)
    until(lambda: set(cluster.trainers().values()) == {State.WORKING})
    cluster.place("trainer-2")
    assert cluster.trainers()["trainer-2"] is State.WAITING
    cluster.remove("trainer-0")
    until(lambda: cluster.trainers().get("trainer-2") is State.WORKING)
    assert cluster.trainers().keys() == {"trainer-1", "trainer-2"}


def who_is_asked_to_go_says_when_it_is_done_and_keeps_its_place(cluster: Cluster) -> None:
    cluster.place("trainer-0")
    until(lambda: cluster.trainers().get("trainer-0") is State.WORKING)
    cluster.drain("trainer-0")
    until(lambda: cluster.trainers().get("trainer-0") is State.DRAINED)
    assert cluster.trainers().keys() == {"trainer-0"}
    cluster.remove("trainer-0")
    assert dict(cluster.trainers()) == {}


def who_has_gone_can_be_placed_again(cluster: Cluster) -> None:
    for _ in range(2):
        until(lambda: placed(cluster, "trainer-0"))
        cluster.remove("trainer-0")


def what_is_not_there_can_be_asked_to_go_and_removed(cluster: Cluster) -> None:
    cluster.drain("trainer-7")
    cluster.remove("trainer-7")
    assert dict(cluster.trainers()) == {}


def who_cannot_be_started_is_broken_and_others_are_not(cluster: Cluster) -> None:
    cluster.place(HOPELESS)
    cluster.place("trainer-0")
    until(lambda: cluster.trainers().get(HOPELESS) is State.BROKEN)
    until(lambda: cluster.trainers().get("trainer-0") is State.WORKING)
    cluster.remove(HOPELESS)
    assert dict(cluster.trainers()) == {"trainer-0": State.WORKING}


SUITE: list[Callable[[Cluster], None]] = [
    it_has_as_many_devices_as_places,
    one_of_a_name_is_placed_once_and_works,
    who_finds_no_place_waits_until_one_is_free,
    who_is_asked_to_go_says_when_it_is_done_and_keeps_its_place,
    who_has_gone_can_be_placed_again,
    what_is_not_there_can_be_asked_to_go_and_removed,
    who_cannot_be_started_is_broken_and_others_are_not,
]


def placed(cluster: Cluster, name: str) -> bool:
    """Whether it works; where a name is not free at once after its bearer was ended, it is asked for again."""
    cluster.place(name)
    return cluster.trainers().get(name) is State.WORKING


def until(true: Callable[[], bool], seconds: float = PATIENCE) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)
