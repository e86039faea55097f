"""How many trainers there are, and which are let go: on a fake cluster."""

import pytest
from hypothesis import given, settings as sized, strategies as st

from adapters.errors import InvalidValue, Unavailable
from adapters.settings import LedgerSettings
from tests.support.clock import Clock
from tests.support.fake_cluster import FakeCluster
from trainer.ray.driver import Driver
from trainer.ray.protocol import State, mark_of
from trainer.ray.size import Size
from trainer.settings import RaySettings, TrainerSettings


class House:
    """A driver, the queue and the cluster around it, and a clock that stands still."""

    def __init__(self, places: int = 2, **told) -> None:
        self.clock = Clock()
        self.jobs = 0
        self.ledger_is_away = False
        self.cluster = FakeCluster(places)
        self.settings = RaySettings(**told)
        self.driver = self.another_driver()

    def another_driver(self) -> Driver:
        return Driver(
            self.cluster,
            Size(self.settings, clock=self.clock),
            jobs=self._count,
            drain_seconds=18,
            clock=self.clock,
            sleep=self.clock.tick,
        )

    def _count(self) -> int:
        if self.ledger_is_away:
            raise Unavailable("away")
        return self.jobs

    def settle(self, driver: Driver | None = None) -> dict[str, State]:
        for _ in range(4):
            (driver or self.driver).turn()
        return dict(self.cluster.trainers())

    def names(self) -> set[str]:
        return set(self.settle())


def test_there_is_one_trainer_for_each_device() -> None:
    house = House(places=3)
    assert house.settle() == {f"trainer-{number}": State.WORKING for number in range(3)}


def test_jobs_decide_between_the_least_and_the_most() -> None:
    house = House(places=4, min_trainers=0, max_trainers=4, jobs_per_trainer=8, idle_seconds=0)
    for jobs, wanted in [(0, 0), (1, 1), (8, 1), (9, 2), (1000, 4), (3, 1), (0, 0)]:
        house.jobs = jobs
        assert len(house.names()) == wanted, jobs


def test_trainers_that_find_no_node_stay_so_that_the_cluster_grows() -> None:
    house = House(places=1, min_trainers=0, max_trainers=3, jobs_per_trainer=1)
    house.jobs = 3
    assert sorted(house.settle().values()) == [State.WAITING, State.WAITING, State.WORKING]
    house.cluster.places = 3
    assert set(house.settle().values()) == {State.WORKING}
    assert house.cluster.placed == ["trainer-0", "trainer-1", "trainer-2"]


def test_one_is_let_go_only_after_fewer_were_enough_for_a_while() -> None:
    house = House(min_trainers=1, max_trainers=2, jobs_per_trainer=1, idle_seconds=600)
    house.jobs = 2
    assert len(house.names()) == 2
    house.jobs = 1
    house.clock.tick(599)
    assert len(house.names()) == 2
    house.clock.tick(599)
    assert len(house.names()) == 2
    house.jobs = 2
    assert len(house.names()) == 2
    house.jobs = 1
    assert len(house.names()) == 2, "the while begins anew"
    house.clock.tick(600)
    assert house.names() == {"trainer-0"}


def test_a_lost_node_changes_nothing_for_a_while() -> None:
    house = House(places=2)
    house.settle()
    house.cluster.lose_place("trainer-1")
    assert house.settle() == {"trainer-0": State.WORKING, "trainer-1": State.WAITING}
    house.clock.tick(600)
    house.settle()
    house.clock.tick(18)
    assert house.names() == {"trainer-0"}


def test_a_driver_that_comes_after_another_takes_its_trainers_over() -> None:
    house = House(places=2)
    house.settle()
    house.settle(house.another_driver())
    assert house.cluster.placed == ["trainer-0", "trainer-1"]


def test_one_that_has_let_itself_go_makes_room_for_another() -> None:
    house = House(places=1)
    house.settle()
    house.cluster.drain("trainer-0")
    assert house.settle() == {"trainer-0": State.WORKING}
    assert house.cluster.placed == ["trainer-0", "trainer-0"]


def test_one_that_does_not_end_in_time_is_ended() -> None:
    house = House(places=1, min_trainers=0, max_trainers=1, idle_seconds=0)
    house.jobs = 1
    house.settle()
    house.cluster.deaf.add("trainer-0")
    house.jobs = 0
    assert house.names() == {"trainer-0"}
    house.clock.tick(18)
    assert house.names() == set()


def test_what_cannot_be_started_is_tried_again_later_and_later() -> None:
    house = House(places=1)
    house.cluster.hopeless.add("trainer-0")
    tries = []
    for _ in range(200):
        house.settle()
        tries.append(len(house.cluster.placed))
        house.clock.tick(1)
    assert 5 <= tries[-1] <= 9
    house.cluster.hopeless.clear()
    house.clock.tick(60)
    assert house.settle() == {"trainer-0": State.WORKING}


def test_while_the_ledger_does_not_answer_everything_stays() -> None:
    house = House(min_trainers=0, max_trainers=2, jobs_per_trainer=1, idle_seconds=0)
    house.jobs = 2
    house.settle()
    house.ledger_is_away = True
    assert house.settle() == {"trainer-0": State.WORKING, "trainer-1": State.WORKING}


def test_at_the_end_nobody_is_left() -> None:
    house = House(places=1, max_trainers=2)
    house.settle()
    house.cluster.deaf.add("trainer-1")
    house.driver.drain_all()
    assert dict(house.cluster.trainers()) == {}


@sized(max_examples=100, deadline=None)
@given(
    moments=st.lists(st.tuples(st.integers(0, 60), st.integers(0, 5), st.integers(0, 900))),
    least=st.none() | st.integers(0, 3),
    most=st.none() | st.integers(3, 6),
)
def test_never_more_than_the_most_nor_fewer_than_jobs_want(moments, least, most) -> None:
    clock = Clock()
    told = RaySettings(min_trainers=least, max_trainers=most)
    size, devices_before = Size(told, clock=clock), 0
    for jobs, devices, passed in moments:
        clock.tick(passed)
        wanted = size.wanted(jobs=jobs, devices=devices)
        assert wanted <= (most or max(devices, devices_before))
        assert wanted >= min(-(-jobs // told.jobs_per_trainer), most or devices)
        assert wanted >= min(least or 0, most or devices)
        devices_before = max(devices_before, devices)


def test_the_mark_is_of_the_database_and_not_of_its_password(monkeypatch) -> None:
    def mark(url: str) -> str:
        monkeypatch.setenv("GRAFT_DATABASE_URL", url)
        return mark_of(LedgerSettings())

    assert mark("postgresql://a:one@db:5432/graft") == mark("postgresql://b:two@db:5432/graft")
    others = ["postgresql://a:one@db:5432/other", "postgresql://a:one@eb:5432/graft", ""]
    assert mark("postgresql://a:one@db:5432/graft") not in {mark(url) for url in others}


def test_settings_of_ray_are_read_from_the_environment_too(monkeypatch) -> None:
    monkeypatch.setenv("GRAFT_TRAINER_RAY__ADDRESS", "10.0.0.1:6379")
    monkeypatch.setenv("GRAFT_TRAINER_RAY__MAX_TRAINERS", "4")
    assert TrainerSettings().ray == RaySettings(address="10.0.0.1:6379", max_trainers=4)
    monkeypatch.setenv("GRAFT_TRAINER_RAY__MIN_TRAINERS", "5")
    with pytest.raises(InvalidValue, match="min_trainers"):
        TrainerSettings()
