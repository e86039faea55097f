import asyncio
import random
from contextlib import suppress

import pytest
from hypothesis import given, settings, strategies as st

from adapters.errors import Overloaded
from service.admission import Admission
from service.metrics import Metrics
from service.settings import ServiceSettings
from tests.support.clock import Clock


def admission(clock: Clock | None = None, *, seats: int = 4, **settings: object) -> Admission:
    return Admission(
        "base",
        ServiceSettings(**settings),
        seats=seats,
        metrics=Metrics(),
        clock=clock or Clock(),
    )


class Guest:
    """A request that holds its place until it is told to go."""

    def __init__(self, door: Admission, adapter: str, tenant: str = "t") -> None:
        self.inside = asyncio.Event()
        self.may_go = asyncio.Event()
        self._door, self._adapter, self._tenant = door, adapter, tenant
        self.task = asyncio.create_task(self._stay())

    async def _stay(self) -> None:
        async with self._door.admitted(self._tenant, self._adapter, needs_seat=True):
            self.inside.set()
            await self.may_go.wait()

    async def go(self) -> None:
        self.may_go.set()
        await self.task


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def full_house(door: Admission, adapter: str, count: int) -> list[Guest]:
    guests = [Guest(door, adapter) for _ in range(count)]
    await settled()
    return guests


async def send_home(guests: list[Guest]) -> None:
    for guest in guests:
        guest.task.cancel()
    await asyncio.gather(*(guest.task for guest in guests), return_exceptions=True)


async def test_a_flood_on_one_adapter_leaves_every_other_turn_to_the_rest() -> None:
    door = admission(max_running=1)
    flood = await full_house(door, "noisy", 20)
    quiet = Guest(door, "quiet")
    await settled()
    await flood[0].go()
    await settled()
    served = 0
    while not quiet.inside.is_set():
        served += 1
        await next(one for one in flood if one.inside.is_set() and not one.task.done()).go()
        await settled()
    assert served <= 1
    await send_home([*flood, quiet])


async def test_beyond_the_bound_the_time_to_wait_is_what_the_queue_takes_to_drain() -> None:
    clock = Clock()
    door = admission(clock, max_running=1, max_waiting=20)
    for _ in range(400):  # five a second
        async with door.admitted("t", "warm-up", needs_seat=True):
            clock.tick(0.2)
    guests = await full_house(door, "a", 21)
    with pytest.raises(Overloaded) as caught:
        async with door.admitted("t", "b", needs_seat=True):
            pass
    assert 3.6 < caught.value.retry_after < 4.4
    assert "20 requests are waiting" in caught.value.message
    await send_home(guests)


async def test_one_adapter_has_a_bound_of_its_own_and_the_rest_still_get_in() -> None:
    door = admission(max_running=1, max_waiting=100, max_waiting_per_adapter=3)
    guests = await full_house(door, "a", 4)
    with pytest.raises(Overloaded) as caught:
        async with door.admitted("t", "a", needs_seat=True):
            pass
    assert "'a'" in caught.value.message
    other = Guest(door, "b")
    await settled()
    assert not other.task.done()
    await send_home([*guests, other])


async def test_with_a_queue_of_length_nothing_a_free_place_is_still_given() -> None:
    door = admission(max_running=1, max_waiting=0)
    [first] = await full_house(door, "a", 1)
    with pytest.raises(Overloaded):
        async with door.admitted("t", "b", needs_seat=True):
            pass
    await first.go()
    async with door.admitted("t", "b", needs_seat=True):
        pass


async def test_who_stops_waiting_leaves_the_queue() -> None:
    door = admission(max_running=1, max_waiting=1)
    first, second = await full_house(door, "a", 2)
    await send_home([second])
    third = Guest(door, "b")
    await settled()
    await first.go()
    await settled()
    assert third.inside.is_set()
    await third.go()


async def test_a_place_given_to_somebody_who_leaves_at_that_moment_goes_to_the_next() -> None:
    door = admission(max_running=1)
    first, second, third = await full_house(door, "a", 3)
    first.may_go.set()
    await asyncio.sleep(
        0
    )  # the first has ended and the second has been called, but has not woken up
    second.task.cancel()
    await settled()
    assert second.task.cancelled()
    assert third.inside.is_set()
    await third.go()


class Borrower:
    """A request that lends its place while something is loaded."""

    def __init__(self, door: Admission, adapter: str) -> None:
        self.loaded = asyncio.Event()
        self.is_back = asyncio.Event()
        self.fails = False
        self._door, self._adapter = door, adapter
        self.task = asyncio.create_task(self._stay())

    async def _stay(self) -> None:
        async with self._door.admitted("t", self._adapter, needs_seat=True) as place:
            async with place.lent():
                await self.loaded.wait()
                if self.fails:
                    raise RuntimeError("the load failed")
            self.is_back.set()


async def test_a_load_holds_no_place_of_others() -> None:
    door = admission(max_running=1)
    cold = Borrower(door, "cold")
    await settled()
    warm = Guest(door, "warm")
    await settled()
    assert warm.inside.is_set()
    cold.loaded.set()
    await settled()
    assert not cold.is_back.is_set()
    await warm.go()
    await cold.task
    assert cold.is_back.is_set()


@pytest.mark.parametrize("ending", ["fails", "cancelled", "cancelled on the way back"])
async def test_a_load_that_comes_to_nothing_leaves_nothing_behind(ending: str) -> None:
    door = admission(max_running=1)
    cold = Borrower(door, "cold")
    await settled()
    warm = Guest(door, "warm")
    await settled()
    cold.fails = ending == "fails"
    if ending != "cancelled":
        cold.loaded.set()
        await settled()
    if ending != "fails":
        cold.task.cancel()
    await asyncio.gather(cold.task, return_exceptions=True)
    await warm.go()
    assert (door._queue.busy, door._queue.waiting, door._lent, door._turns) == (0, 0, set(), {})
    async with door.admitted("t", "next", needs_seat=True):
        pass
    assert door._paces == {}


class Crowd:
    """Visitors who stay, lend their places and leave, as chance has it."""

    def __init__(self, seed: int, places: int, seats: int) -> None:
        self.chance = random.Random(seed)
        self.places = places
        self.door = admission(
            seats=seats, max_running=places, max_running_per_adapter=2, max_waiting=20
        )
        self.inside = 0

    async def visit(self, adapter: str) -> None:
        tenant = self.chance.choice("xy")
        with suppress(Overloaded):
            async with self.door.admitted(tenant, adapter, needs_seat=adapter != "base") as place:
                await self._stay()
                if self.chance.random() < 0.3:
                    async with place.lent():
                        await asyncio.sleep(0)
                    await self._stay()

    async def _stay(self) -> None:
        self.inside += 1
        assert self.inside <= self.places
        try:
            await self.pause(4)
        finally:
            self.inside -= 1

    async def pause(self, most: int) -> None:
        for _ in range(self.chance.randrange(most)):
            await asyncio.sleep(0)


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 10_000), places=st.integers(1, 4), seats=st.integers(1, 3))
async def test_whoever_leaves_at_whatever_moment_nothing_is_lost(seed, places, seats):
    crowd = Crowd(seed, places, seats)
    tasks = []
    for _ in range(60):
        visit = crowd.visit(crowd.chance.choice(["base", "a", "b", "c"]))
        tasks.append(asyncio.create_task(visit))
        if crowd.chance.random() < 0.3:
            crowd.chance.choice(tasks).cancel()
        await crowd.pause(3)
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert {type(result) for result in results} <= {type(None), asyncio.CancelledError}
    door = crowd.door
    assert (door._queue.busy, door._queue.waiting) == (0, 0)
    assert (door._turns, door._lent, door._paces) == ({}, set(), {})
    for _ in range(places):
        async with door.admitted("t", "last", needs_seat=True):
            pass
