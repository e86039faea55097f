"""The order in front of an engine, without an engine: a shop with places, in which time is a number."""

import heapq
import random
from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise

from hypothesis import given, settings, strategies as st

from service.fairness import TENURE_S, FairQueue, Pace, Ticket


@dataclass
class Shop:
    """Serves tickets; each takes as long as its adapter says, a second where nothing is said."""

    places: int = 2
    share: int = 1000
    seats: int = 1000
    seconds: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.queue = FairQueue(places=self.places, share=self.share, seats=self.seats)
        self.now = 0.0
        self.started: list[tuple[float, Ticket]] = []
        self._ends: list[tuple[float, int, Ticket]] = []

    def join(self, adapter: str, tenant: str = "t", *, base: bool = False) -> Ticket:
        ticket = Ticket(tenant, adapter, needs_seat=not base)
        self.queue.join(ticket)
        return ticket

    def go_on(self) -> None:
        while (ticket := self.queue.next(self.now)) is not None:
            self.started.append((self.now, ticket))
            took = self.seconds.get(ticket.adapter, 1.0)
            heapq.heappush(self._ends, (self.now + took, len(self.started), ticket))

    def one_ends(self) -> None:
        self.now, _, ticket = heapq.heappop(self._ends)
        self.queue.done(ticket, self.now)
        self.go_on()

    def until(self, time: float) -> None:
        self.go_on()
        while self._ends and self._ends[0][0] <= time:
            self.one_ends()
        self.now = time

    def to_the_end(self) -> None:
        self.go_on()
        while self._ends:
            self.one_ends()

    def order(self) -> list[str]:
        return [ticket.adapter for _, ticket in self.started]


def test_one_line_is_served_in_the_order_in_which_it_came() -> None:
    shop = Shop(places=1)
    tickets = [shop.join("a") for _ in range(5)]
    shop.to_the_end()
    assert [ticket for _, ticket in shop.started] == tickets


@given(flood=st.integers(0, 400), few=st.integers(1, 20), places=st.integers(1, 8))
def test_a_flood_on_one_adapter_takes_no_more_than_every_other_turn(flood, few, places):
    shop = Shop(places=places)
    for _ in range(flood):
        shop.join("noisy")
    shop.go_on()
    before = len(shop.started)
    for _ in range(few):
        shop.join("quiet")
    shop.to_the_end()
    after = shop.order()[before:]
    for served in range(1, few + 1):
        position = [n for n, name in enumerate(after) if name == "quiet"][served - 1]
        assert after[:position].count("noisy") <= served


@given(
    crowd=st.lists(
        st.tuples(st.sampled_from("xyz"), st.sampled_from("abcd"), st.integers(1, 30)), min_size=2
    ),
    places=st.integers(1, 5),
)
def test_between_two_turns_of_a_tenant_every_other_has_one_at_most(crowd, places):
    shop = Shop(places=places)
    wanted = Counter()
    for tenant, adapter, count in crowd:
        wanted[tenant] += count
        for _ in range(count):
            shop.join(adapter, tenant)
    shop.to_the_end()
    order = [ticket.tenant for _, ticket in shop.started]
    assert Counter(order) == wanted
    for tenant in wanted:
        turns = [n for n, name in enumerate(order) if name == tenant]
        for one, next_one in pairwise(turns):
            assert all(count == 1 for count in Counter(order[one + 1 : next_one]).values())


def test_a_tenant_gains_nothing_by_spreading_over_many_adapters() -> None:
    shop = Shop(places=1)
    for number in range(50):
        shop.join(f"spread-{number}", "greedy")
    for _ in range(5):
        shop.join("only", "modest")
    shop.to_the_end()
    assert shop.order()[:10].count("only") == 5


# ---- the share of one adapter


def test_the_share_costs_nothing_while_nobody_else_wants_the_places() -> None:
    shop = Shop(places=8, share=2)
    for _ in range(8):
        shop.join("a")
    shop.go_on()
    assert shop.queue.running("a") == 8


def test_who_is_over_its_share_starts_nothing_while_others_wait() -> None:
    shop = Shop(places=4, share=1, seconds={"noisy": 5.0})
    for _ in range(40):
        shop.join("noisy")
    shop.go_on()
    for _ in range(10):
        shop.join("quiet-1")
        shop.join("quiet-2")
    shop.until(5.0)
    # Four of the flood end; three of their places are the others' as long as these wait, one is its share.
    assert shop.queue.running("noisy") == 1
    shop.to_the_end()
    assert Counter(shop.order()) == {"noisy": 40, "quiet-1": 10, "quiet-2": 10}


def test_many_tenants_of_one_adapter_share_its_share_fairly() -> None:
    shop = Shop(places=2, share=1)
    for _ in range(100):
        shop.join("other", "z")
    for tenant in "pqr":
        for _ in range(4):
            shop.join("base", tenant, base=True)
    shop.to_the_end()
    of_base = [ticket.tenant for _, ticket in shop.started if ticket.adapter == "base"]
    assert set(of_base[:4]) == {"p", "q", "r"}
    assert max(Counter(of_base[:8]).values()) <= 4
    assert shop.order()[:24].count("base") == 12


def test_a_line_over_its_share_is_not_forgotten_when_the_one_before_it_leaves() -> None:
    shop = Shop(places=2, share=1)
    shop.join("a", "x")
    shop.go_on()
    leaving = shop.join("a", "y")
    shop.join("a", "z")
    for _ in range(30):
        shop.join("b", "w")
    shop.go_on()
    shop.one_ends()
    if leaving not in [ticket for _, ticket in shop.started]:
        shop.queue.leave(leaving, shop.now)
    shop.until(3.0)
    assert "z" in [ticket.tenant for _, ticket in shop.started]


# ---- seats


class Chaos:
    """Tickets come, leave, lend their places and end, as chance has it; what must hold is asserted on the way."""

    def __init__(self, seed: int, places: int, share: int, seats: int) -> None:
        self.chance = random.Random(seed)
        self.places, self.seats = places, seats
        self.queue = FairQueue(places=places, share=share, seats=seats)
        self.now = 0.0
        self.waiting: list[Ticket] = []
        self.running: list[Ticket] = []
        self.lent: list[Ticket] = []
        self.back: list[Ticket] = []

    def come(self) -> None:
        adapter = self.chance.choice(["base", "a", "b", "c", "d"])
        ticket = Ticket(self.chance.choice("xyz"), adapter, needs_seat=adapter != "base")
        self.waiting.append(ticket)
        self.queue.join(ticket)

    def leave(self) -> None:
        if ticket := self._one_of(self.waiting):
            self.queue.leave(ticket, self.now)

    def end(self) -> None:
        if ticket := self._one_of(self.running):
            self.queue.done(ticket, self.now)

    def lend(self) -> None:
        if ticket := self._one_of(self.running):
            self.lent.append(ticket)
            self.queue.lend(ticket)

    def come_back(self) -> None:
        if ticket := self._one_of(self.lent):
            self.back.append(ticket)
            self.queue.back(ticket)

    def go(self) -> None:
        if ticket := self._one_of(self.lent) or self._one_of(self.back):
            self.queue.gone(ticket, self.now)

    def step(self) -> None:
        self.now += self.chance.random()
        steps = [self.come, self.come, self.come, self.leave, self.end, self.end]
        self.chance.choice([*steps, self.lend, self.come_back, self.go])()
        self.start()

    def drain(self) -> None:
        while self.waiting or self.running or self.lent or self.back:
            self.now += 1
            self.go()
            self.end()
            self.start()

    def start(self) -> None:
        while (ticket := self.queue.next(self.now)) is not None:
            (self.back if ticket in self.back else self.waiting).remove(ticket)
            self.running.append(ticket)
            assert len(self.running) <= self.places
            assert len(self._seated(self.running + self.lent + self.back)) <= self.seats
        free = len(self.running) < self.places
        assert not (free and self.back)
        if free and self.waiting and not self.lent:
            # Only a seat can be missing.
            assert all(ticket.needs_seat for ticket in self.waiting)
            assert len(self._seated(self.running)) == self.seats

    def _one_of(self, tickets: list[Ticket]) -> Ticket | None:
        return tickets.pop(self.chance.randrange(len(tickets))) if tickets else None

    def _seated(self, tickets: list[Ticket]) -> set[str]:
        return {ticket.adapter for ticket in tickets if ticket.needs_seat}


@settings(max_examples=200)
@given(
    seed=st.integers(0, 10_000),
    places=st.integers(1, 6),
    share=st.integers(1, 4),
    seats=st.integers(1, 3),
)
def test_whatever_comes_and_leaves_all_are_served_within_the_bounds(seed, places, share, seats):
    chaos = Chaos(seed, places, share, seats)
    for _ in range(150):
        chaos.step()
    chaos.drain()
    queue = chaos.queue
    assert (queue.waiting, queue.busy) == (0, 0)
    assert all(not kept for kept in (queue._lines, queue._seated, queue._running, queue._lent))


def test_no_more_adapters_run_at_a_time_than_there_are_seats() -> None:
    shop = Shop(places=10, seats=2)
    for name in "abcde":
        shop.join(name)
    shop.join("base", base=True)
    shop.go_on()
    assert sorted(shop.order()) == ["a", "b", "base"]
    shop.to_the_end()
    assert sorted(shop.order()) == ["a", "b", "base", "c", "d", "e"]


def test_a_cold_adapter_gets_a_seat_although_a_hot_one_is_always_there() -> None:
    shop = Shop(places=10, seats=1, seconds={"hot": 2.0})
    for moment in range(40):
        shop.until(moment / 4)
        if moment == 10:
            shop.join("cold")
        shop.join("hot")
    [started] = [time for time, ticket in shop.started if ticket.adapter == "cold"]
    asked = 2.5
    assert started <= asked + TENURE_S + 2.0
    shop.to_the_end()
    assert shop.order().count("hot") == 40


def test_an_adapter_fills_its_batch_before_it_gives_its_seat_away() -> None:
    shop = Shop(places=8, seats=1, seconds={"a": 3.0, "b": 3.0})
    for _ in range(8):
        shop.join("a")
        shop.join("b")
    shop.to_the_end()
    assert shop.order() == ["a"] * 8 + ["b"] * 8


# ---- lending a place


def test_who_waits_for_a_load_holds_nobody_up_and_is_first_when_it_is_back() -> None:
    shop = Shop(places=1)
    cold, also_cold = shop.join("cold"), shop.join("cold")
    assert shop.queue.next(0.0) is cold
    shop.queue.lend(cold)
    others = [shop.join("warm") for _ in range(3)]
    assert shop.queue.next(0.0) is others[0]
    shop.queue.back(cold)
    assert shop.queue.next(0.0) is None
    shop.queue.done(others[0], 0.0)
    assert shop.queue.next(0.0) is cold
    shop.queue.done(cold, 0.0)
    rest = []
    while (ticket := shop.queue.next(0.0)) is not None:
        rest.append(ticket)
        shop.queue.done(ticket, 0.0)
    assert set(rest) == {also_cold, *others[1:]}


def test_while_an_adapter_is_loaded_only_one_request_is_out_for_it() -> None:
    shop = Shop(places=10)
    tickets = [shop.join("cold") for _ in range(10)]
    assert shop.queue.next(0.0) is tickets[0]
    shop.queue.lend(tickets[0])
    assert shop.queue.next(0.0) is None
    shop.queue.gone(tickets[0], 0.0)
    assert shop.queue.next(0.0) is tickets[1]


# ---- costs


def test_what_an_operation_costs_does_not_grow_with_those_who_wait() -> None:
    def turns_for_each(waiting: int) -> float:
        shop = Shop(places=4, share=2, seats=2, seconds={"hot": 0.1})
        turns = 0

        def counted(turn):
            def count():
                nonlocal turns
                turns += 1
                return turn()

            return count

        for kept in (shop.queue._round, shop.queue._over):
            kept.turn = counted(kept.turn)
        for number in range(waiting):
            shop.join(f"cold-{number % 500}", f"tenant-{number % 7}")
            shop.join("hot")
        shop.to_the_end()
        return turns / len(shop.started)

    assert turns_for_each(5000) <= 2 * turns_for_each(500) <= 12


@settings(max_examples=200)
@given(
    comes=st.lists(st.sampled_from(["a", "b", "c", "ends"]), max_size=30),
    places=st.integers(1, 4),
    seats=st.integers(1, 3),
)
def test_where_there_is_room_one_who_comes_starts_at_once_and_otherwise_somebody_waits(
    comes: list[str], places: int, seats: int
) -> None:
    shop = Shop(places=places, seats=seats)
    for one in comes:
        if one == "ends":
            if shop.queue.busy:
                shop.one_ends()
            continue
        waited, room = shop.queue.waiting, shop.queue.has_room_for(one)
        ticket = shop.join(one)
        shop.go_on()
        if room:
            assert (shop.queue.waiting, shop.started[-1][1]) == (0, ticket)
        elif not waited:
            assert shop.queue.waiting == 1


# ---- pace


def test_a_pace_is_what_was_seen_of_late() -> None:
    pace = Pace(0.0)
    for tick in range(1, 1001):
        pace.note(tick / 20)
    assert 18 < pace.rate(50.0, busy=1) < 22
    assert pace.rate(80.0, busy=1) < 2


def test_before_anything_has_happened_a_pace_is_a_guess() -> None:
    pace = Pace(0.0)
    assert pace.rate(0.0, busy=4) == 4
    assert pace.rate(10.0, busy=4) == 0.4
