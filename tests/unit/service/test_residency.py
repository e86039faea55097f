"""What an engine holds, with the fake engine behind a real socket."""

import asyncio
import threading
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pytest

from adapters.errors import EngineFault, ModelQuarantined, Overloaded, Unavailable
from adapters.ledger import open_ledger
from adapters.records import Version
from adapters.settings import LedgerSettings
from service.engine.client import VllmEngine
from service.engine.format import read_number_format, write_number_format
from service.metrics import Metrics
from service.prover import Prover
from service.residency import Residency
from tests.support.clock import Clock
from tests.support.fake_engine import FakeEngine
from tests.support.probes import PROMPTS, probed
from tests.support.samples import BASE, adapter_directory, version


@dataclass
class House:
    engine: FakeEngine
    residency: Residency
    clock: Clock
    directory: Path
    metrics: Metrics
    socket: Path


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    engine = FakeEngine(tmp_path / "engine.sock", BASE)
    await engine.start()
    client = VllmEngine(engine.socket, BASE)
    directory = adapter_directory(tmp_path / "adapter")
    clock, metrics = Clock(), Metrics()
    ledger = open_ledger(LedgerSettings(home=tmp_path))
    prover = Prover(
        client,
        ledger.verdicts,
        number_format=partial(read_number_format, engine.socket, otherwise="float32"),
        base_model_dir=lambda _: tmp_path,
        metrics=metrics,
        clock=clock,
    )
    residency = Residency(
        client,
        capacity=2,
        directory_of=lambda _: directory,
        prover=prover,
        metrics=metrics,
        clock=clock,
    )
    yield House(engine, residency, clock, directory, metrics, engine.socket)
    ledger.close()
    await client.close()
    await engine.kill()


def bot(name: str) -> Version:
    return replace(version(), adapter=name)


def proven(house: House, name: str) -> Version:
    """A version with probes, which the engine must agree with."""
    made = bot(name)
    return replace(
        made, digest=name.ljust(64, "0"), manifest=probed(made.manifest, house.directory)
    )


def outcomes(house: House) -> dict[str, float]:
    """How many comparisons came to what."""
    [family] = house.metrics.weights.probes.collect()
    return {
        one.labels["outcome"]: one.value for one in family.samples if one.name.endswith("_total")
    }


async def test_all_who_ask_for_a_cold_version_share_one_load(house: House) -> None:
    house.engine.load_seconds = 0.05
    await asyncio.gather(*(house.residency.ensure(bot("a")) for _ in range(20)))
    assert house.engine.loads == ["a@1"]


async def test_loads_come_one_at_a_time(house: House) -> None:
    house.engine.load_seconds = 0.02
    await asyncio.gather(house.residency.ensure(bot("a")), house.residency.ensure(bot("b")))
    assert house.engine.most_loading == 1


async def test_who_asked_first_may_leave_and_the_load_goes_on(house: House) -> None:
    house.engine.load_seconds = 0.05
    first = asyncio.create_task(house.residency.ensure(bot("a")))
    second = asyncio.create_task(house.residency.ensure(bot("a")))
    await asyncio.sleep(0.01)
    first.cancel()
    await second
    assert house.engine.loads == ["a@1"]


async def test_the_engine_never_holds_more_than_there_is_room_for(house: House) -> None:
    for name in "abcd":
        async with house.residency.pinned(bot(name)):
            pass
        assert len(house.engine.adapters) <= 2
    assert set(house.engine.adapters) == {"c@1", "d@1"}


async def test_a_version_in_use_never_makes_room(house: House) -> None:
    async with house.residency.pinned(bot("a")):
        for name in "bcd":
            async with house.residency.pinned(bot(name)):
                assert "a@1" in house.engine.adapters
        async with house.residency.pinned(bot("b")):
            with pytest.raises(Overloaded):
                await house.residency.ensure(bot("c"))
            assert set(house.engine.adapters) == {"a@1", "b@1"}


async def test_a_version_that_is_being_deleted_stays_until_its_last_request_has_ended(
    house: House,
) -> None:
    async with house.residency.pinned(bot("a")):
        dropping = asyncio.create_task(house.residency.drop("a@1"))
        await asyncio.sleep(0.1)
        assert "a@1" in house.engine.adapters
    await dropping
    assert "a@1" not in house.engine.adapters


async def test_a_load_that_fails_is_an_error_of_those_who_asked_and_of_nobody_else(
    house: House,
) -> None:
    house.engine.refuse.add("bad@1")
    house.engine.load_seconds = 0.01
    wanted = [bot("bad"), bot("a"), bot("bad"), bot("b")]
    results = await asyncio.gather(
        *(house.residency.ensure(one) for one in wanted), return_exceptions=True
    )
    assert [type(result) for result in results] == [EngineFault, type(None)] * 2
    assert house.engine.tries.count("bad@1") == 1


async def test_what_the_engine_has_refused_is_not_tried_again_for_a_while(house: House) -> None:
    house.engine.refuse.add("bad@1")
    for _ in range(3):
        with pytest.raises(EngineFault, match="refused to load bad@1"):
            await house.residency.ensure(bot("bad"))
    assert house.engine.tries == ["bad@1"]
    house.engine.refuse.clear()
    house.clock.tick(11)
    await house.residency.ensure(bot("bad"))
    assert house.engine.tries == ["bad@1", "bad@1"]


async def test_a_new_engine_process_may_be_asked_again_at_once(house: House) -> None:
    house.engine.refuse.add("bad@1")
    with pytest.raises(EngineFault):
        await house.residency.ensure(bot("bad"))
    house.engine.refuse.clear()
    house.residency.restart(frozenset())
    await house.residency.ensure(bot("bad"))


async def test_after_a_restart_it_believes_the_engine_and_not_its_memory(house: House) -> None:
    await house.residency.ensure(bot("a"))
    await house.residency.ensure(bot("b"))
    house.engine.adapters.pop("a@1")
    assert await house.residency.lost(bot("a"))
    assert house.residency.resident == ("b@1",)
    assert not await house.residency.lost(bot("b"))
    await house.residency.ensure(bot("a"))
    assert house.engine.loads == ["a@1", "b@1", "a@1"]


async def test_what_survives_a_restart_keeps_the_order_of_its_use(house: House) -> None:
    await house.residency.ensure(bot("b"))
    await house.residency.ensure(bot("a"))
    house.residency.restart(frozenset({"a@1", "b@1", "c@1"}))
    assert house.residency.resident == ("b@1", "a@1", "c@1")


async def test_a_version_is_compared_with_its_probes_once_however_often_it_comes_in(
    house: House,
) -> None:
    a = proven(house, "a")
    await asyncio.gather(*(house.residency.ensure(a) for _ in range(5)))
    for other in "bc":
        await house.residency.ensure(bot(other))
    assert not house.residency.holds(a)
    await house.residency.ensure(a)
    assert (house.engine.loads.count("a@1"), house.engine.probes.count("a@1")) == (2, 1)
    assert outcomes(house) == {"verified": 1, "absent": 2}


async def test_a_version_may_be_asked_while_it_is_compared(house: House) -> None:
    a = proven(house, "a")
    house.engine.slow_probes = asyncio.Event()
    async with house.residency.pinned(a):
        assert "a@1" in house.engine.adapters
        assert not house.residency.holds(a)
        compared = asyncio.create_task(house.residency.ensure(a))
        done, _ = await asyncio.wait([compared], timeout=0.1)
        assert not done
        house.engine.slow_probes.set()
        await compared
        assert house.residency.holds(a)
    assert house.engine.probes == ["a@1"]


async def test_whoever_pins_what_is_quarantined_meanwhile_learns_it_before_an_answer(
    house: House,
) -> None:
    bad = proven(house, "bad")
    house.engine.passes_over.add("bad@1")
    house.engine.slow_probes = asyncio.Event()
    async with house.residency.pinned(bad):
        house.engine.slow_probes.set()
        with pytest.raises(ModelQuarantined):
            await house.residency.ensure(bad)
    with pytest.raises(ModelQuarantined):
        async with house.residency.pinned(bad):
            pass
    assert "bad@1" not in house.engine.adapters


async def test_nobody_who_pins_waits_for_a_load_that_has_failed(house: House) -> None:
    house.engine.refuse.add("bad@1")
    for _ in range(2):
        with pytest.raises(EngineFault, match="refused to load bad@1"):
            async with house.residency.pinned(bot("bad")):
                pass


async def test_whoever_pins_does_not_take_what_an_engine_had_before_its_restart(
    house: House,
) -> None:
    a = proven(house, "a")
    house.engine.slow_probes = asyncio.Event()
    async with house.residency.pinned(a):
        pass
    house.engine.adapters.clear()
    house.residency.restart(frozenset())
    pinning = asyncio.create_task(_pin(house, a))
    done, _ = await asyncio.wait([pinning], timeout=0.1)
    assert not done
    house.engine.slow_probes.set()
    with pytest.raises(Unavailable):  # of the comparison that was under way
        await pinning
    await _pin(house, a)
    await house.residency.ensure(a)
    assert house.engine.loads == ["a@1", "a@1"]


async def _pin(house: House, version: Version) -> None:
    async with house.residency.pinned(version):
        assert version.name in house.engine.adapters


async def test_more_than_the_most_telling_probe_is_asked_only_where_that_proves_nothing(
    house: House,
) -> None:
    await house.residency.ensure(proven(house, "good"))
    assert house.engine.probes == ["good@1"]
    house.engine.passes_over.add("bad@1")
    with pytest.raises(ModelQuarantined):
        await house.residency.ensure(proven(house, "bad"))
    assert house.engine.probes == ["good@1", "bad@1", "bad@1", BASE]
    assert house.engine.probed == [1, 1, len(PROMPTS) - 1, len(PROMPTS)]


async def test_a_load_asks_the_engine_once_which_one_it_is(house: House) -> None:
    await house.residency.ensure(proven(house, "a"))
    assert house.engine.asked_for_version == 1


@pytest.mark.parametrize("how", ["not applied", "another"])
async def test_what_the_engine_computes_wrongly_leaves_it_at_once_and_stays_out(
    house: House, how: str, tmp_path: Path
) -> None:
    bad = proven(house, "bad")
    if how == "another":
        house.engine.mixes_up["bad@1"] = adapter_directory(tmp_path / "other", content=b"other")
    else:
        house.engine.passes_over.add("bad@1")
    wanted = [bad, bad, proven(house, "good")]
    said = "some other adapter" if how == "another" else "as the base model does"
    results = await asyncio.gather(
        *(house.residency.ensure(one) for one in wanted), return_exceptions=True
    )
    assert [type(result) for result in results] == [ModelQuarantined] * 2 + [type(None)]
    assert said in str(results[0])
    assert set(house.engine.adapters) == {"good@1"}
    with pytest.raises(ModelQuarantined, match=said):
        await house.residency.ensure(bad)
    assert house.engine.loads.count("bad@1") == 1
    assert outcomes(house) == {"verified": 1, "quarantined": 1}


async def test_what_an_engine_held_before_we_came_is_compared_before_it_is_used(
    house: House,
) -> None:
    a = proven(house, "a")
    house.engine.adapters["a@1"] = str(house.directory)
    house.engine.passes_over.add("a@1")
    house.residency.restart(frozenset({"a@1"}))
    assert not house.residency.holds(a)
    with pytest.raises(ModelQuarantined):
        await house.residency.ensure(a)
    assert house.engine.loads == []
    assert house.engine.adapters == {}


async def test_a_new_process_of_the_same_engine_is_believed_and_another_release_is_not(
    house: House,
) -> None:
    a = proven(house, "a")
    await house.residency.ensure(a)
    house.residency.restart(frozenset({"a@1"}))
    await house.residency.ensure(a)
    assert house.engine.probes.count("a@1") == 1
    house.engine.version = "0.33.0"
    house.residency.restart(frozenset({"a@1"}))
    await house.residency.ensure(a)
    assert house.engine.probes.count("a@1") == 2


async def test_an_engine_that_computes_in_other_numbers_is_another_engine(house: House) -> None:
    """It says so itself: the service of a pod does not see its engine's GPU."""
    a = proven(house, "a")
    await house.residency.ensure(a)
    house.residency.restart(frozenset({"a@1"}))
    write_number_format(house.socket, "bfloat16")
    await house.residency.ensure(a)
    assert house.engine.probes.count("a@1") == 2


async def test_an_engine_that_takes_no_probes_serves_and_is_asked_again_in_its_next_life(
    house: House,
) -> None:
    a = proven(house, "a")
    house.engine.probes_fail = 400
    await house.residency.ensure(a)
    assert house.residency.holds(a)
    assert outcomes(house) == {"unanswered": 1}
    house.engine.probes_fail = None
    house.residency.restart(frozenset({"a@1"}))
    await house.residency.ensure(a)
    assert outcomes(house) == {"unanswered": 1, "verified": 1}


async def test_a_comparison_that_fails_condemns_nobody_and_lets_nobody_in(house: House) -> None:
    a = proven(house, "a")
    house.engine.probes_fail = 500
    with pytest.raises(EngineFault):
        await house.residency.ensure(a)
    assert not house.residency.holds(a)
    house.engine.probes_fail = 404
    house.clock.tick(11)
    with pytest.raises(Unavailable):
        await house.residency.ensure(a)
    house.engine.probes_fail = None
    await house.residency.ensure(a)
    assert outcomes(house) == {"verified": 1}


async def test_an_engine_that_fails_whenever_it_is_asked_is_left_alone_and_asked_again_later(
    house: House,
) -> None:
    house.engine.probes_fail = 500
    for name in "abc":
        with pytest.raises(EngineFault):
            await house.residency.ensure(proven(house, name))
    await house.residency.ensure(proven(house, "d"))
    assert outcomes(house) == {"unanswered": 1}
    house.engine.probes_fail = None
    house.clock.tick(601)
    await house.residency.ensure(proven(house, "e"))
    assert outcomes(house) == {"unanswered": 1, "verified": 1}


async def test_what_is_doubted_is_looked_up_again_before_its_next_use(house: House) -> None:
    a = proven(house, "a")
    await house.residency.ensure(a)
    house.residency.doubt(a)
    assert not house.residency.holds(a)
    await house.residency.ensure(a)
    assert (house.engine.loads, house.engine.probes.count("a@1")) == (["a@1"], 1)


async def test_it_says_what_the_engine_may_still_read_whenever_that_becomes_less(
    house: House,
) -> None:
    told: list[set[str]] = []
    house.residency._on_holding = lambda names: told.append(set(names))
    for name in "abc":
        async with house.residency.pinned(bot(name)):
            pass
    assert told == [{"b@1", "c@1"}]  # what is being loaded counts
    await house.residency.drop("b@1")
    house.residency.restart(frozenset({"x@1"}))
    assert told[1:] == [{"c@1"}, {"x@1"}]


async def test_a_version_that_must_come_from_afar_holds_up_no_other(house: House) -> None:
    near, arrived = house.residency._directory_of, threading.Event()

    def directory_of(version: Version) -> Path:
        if version.adapter == "far":
            assert arrived.wait(10)
        return near(version)

    house.residency._directory_of = directory_of
    far = asyncio.create_task(house.residency.ensure(bot("far")))
    await asyncio.sleep(0)
    await house.residency.ensure(bot("near"))
    assert house.engine.loads == ["near@1"]
    arrived.set()
    await far
