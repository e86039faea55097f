from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from adapters.errors import AdapterNotFound, AliasMoved, InvalidRequest, InvalidValue
from adapters.ledger import Ledger
from tests.conformance.test_ledger import claimed, publish

BOT = "support-bot"


@pytest.fixture
def bot(ledger: Ledger, tmp_path: Path) -> Ledger:
    """A ledger with three versions, which went live one after the other."""
    for _ in range(3):
        publish(ledger, claimed(ledger), tmp_path)
    return ledger


def live(ledger: Ledger) -> int | None:
    return ledger.registry.get(BOT).aliases.get("live")


def test_an_alias_points_at_a_version_and_can_be_moved_and_removed(bot: Ledger) -> None:
    assert bot.aliases.point(BOT, "stable", 1).aliases == {"live": 3, "stable": 1}
    assert bot.aliases.point(BOT, "stable", 2).aliases == {"live": 3, "stable": 2}
    assert bot.registry.resolve(f"{BOT}@stable").name == f"{BOT}@2"
    assert bot.aliases.remove(BOT, "stable").aliases == {"live": 3}
    assert bot.aliases.remove(BOT, "stable").aliases == {"live": 3}


@pytest.mark.parametrize("alias", ["", "7", "007", "Prod", "a b", "-a", "a@b", "x" * 64, "é"])
def test_what_is_no_name_is_no_alias(bot: Ledger, alias: str) -> None:
    with pytest.raises(InvalidValue):
        bot.aliases.point(BOT, alias, 1)


def test_only_canary_and_shadow_take_a_share(bot: Ledger) -> None:
    adapter = bot.aliases.point(BOT, "canary", 2, weight=0.25)
    share, version = adapter.sharing("canary")
    assert (share, version.number) == (0.25, 2)
    assert bot.aliases.point(BOT, "shadow", 1, weight=1.0).weights == {"canary": 0.25, "shadow": 1}
    for alias in ("live", "stable"):
        with pytest.raises(InvalidValue, match="share"):
            bot.aliases.point(BOT, alias, 2, weight=0.5)
    assert bot.aliases.point(BOT, "canary", 2).sharing("canary") is None


def test_an_alias_of_what_is_not_there_is_not_found(bot: Ledger) -> None:
    for name, number in ((BOT, 4), ("nobody", 1)):
        with pytest.raises(AdapterNotFound):
            bot.aliases.point(name, "stable", number)
    with pytest.raises(AdapterNotFound, match="Its aliases: live"):
        bot.aliases.promote_alias(BOT, "canary")
    for act in (bot.aliases.roll_back, lambda name: bot.aliases.set_sampling(name, {})):
        with pytest.raises(AdapterNotFound):
            act("nobody")


def test_live_cannot_be_removed(bot: Ledger) -> None:
    with pytest.raises(InvalidValue):
        bot.aliases.remove(BOT, "live")


def test_every_change_is_one_that_catalogs_learn_of(bot: Ledger) -> None:
    changes = (
        lambda: bot.aliases.point(BOT, "canary", 2, weight=0.5),
        lambda: bot.aliases.point(BOT, "canary", 2, weight=0.6),
        lambda: bot.aliases.promote_alias(BOT, "canary"),
        lambda: bot.aliases.roll_back(BOT),
        lambda: bot.aliases.remove(BOT, "canary"),
        lambda: bot.aliases.set_sampling(BOT, {"temperature": 0.5}),
    )
    seen, _ = bot.registry.changes(since=0)
    for change in changes:
        told = change()
        later, [learned] = bot.registry.changes(since=seen)
        assert later > seen
        assert learned == told
        seen = later


def test_who_expects_something_else_was_not_first(bot: Ledger) -> None:
    assert bot.aliases.promote(BOT, 1, expected=3).live.number == 1
    with pytest.raises(AliasMoved, match="support-bot@1"):
        bot.aliases.promote(BOT, 2, expected=3)
    bot.aliases.point(BOT, "canary", 2, expected=0)
    with pytest.raises(AliasMoved):
        bot.aliases.point(BOT, "canary", 3, expected=0)
    with pytest.raises(AliasMoved, match="nothing"):
        bot.aliases.point(BOT, "stable", 3, expected=1)
    with pytest.raises(AliasMoved):
        bot.aliases.promote_alias(BOT, "canary", expected=3)
    assert bot.registry.get(BOT).aliases == {"live": 1, "canary": 2}


def test_what_was_done_is_not_done_again_when_it_is_asked_for_again(bot: Ledger) -> None:
    for _ in range(2):
        assert bot.aliases.promote(BOT, 1, expected=3).live.number == 1
    for _ in range(2):
        assert bot.aliases.roll_back(BOT, expected=1).live.number == 3
    for _ in range(2):
        assert bot.aliases.roll_back(BOT, expected=3).live.number == 2
    with pytest.raises(AliasMoved):
        bot.aliases.roll_back(BOT, expected=1)


def test_of_many_who_expect_the_same_one_is_first(bot: Ledger) -> None:
    def move(number: int) -> bool:
        try:
            bot.aliases.promote(BOT, number, expected=3)
        except AliasMoved:
            return False
        return True

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(move, [1, 2, 1, 2])) in {
            1,
            2,
            3,
        }  # who wants the same as the first is served
    winner = live(bot)
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda _: bot.aliases.roll_back(BOT, expected=winner), range(4)))
    assert live(bot) == 3


def test_promoting_the_canary_ends_its_share(bot: Ledger) -> None:
    bot.aliases.point(BOT, "canary", 1, weight=0.1)
    for _ in range(2):
        adapter = bot.aliases.promote_alias(BOT, "canary")
        assert (adapter.aliases, adapter.weights) == ({"live": 1, "canary": 1}, {})


def test_rolling_back_goes_on_to_what_was_live_before_that(bot: Ledger) -> None:
    assert [bot.aliases.roll_back(BOT).live.number for _ in range(2)] == [2, 1]
    with pytest.raises(InvalidRequest, match="by its number"):
        bot.aliases.roll_back(BOT)
    assert live(bot) == 1


def test_what_was_rolled_back_does_not_come_back_by_rolling_back(
    bot: Ledger, tmp_path: Path
) -> None:
    bot.aliases.roll_back(BOT)
    publish(bot, claimed(bot), tmp_path)
    assert live(bot) == 4
    assert bot.aliases.roll_back(BOT).live.number == 2


def test_rolling_back_passes_over_deleted_versions(bot: Ledger) -> None:
    bot.registry.delete_version(BOT, 2)
    assert bot.aliases.roll_back(BOT, expected=3).live.number == 1
    assert bot.aliases.roll_back(BOT, expected=3).live.number == 1


def test_an_adapter_that_never_went_live_cannot_be_rolled_back(
    ledger: Ledger, tmp_path: Path
) -> None:
    publish(ledger, claimed(ledger), tmp_path, promote=False)
    with pytest.raises(InvalidRequest):
        ledger.aliases.roll_back(BOT)


def test_a_deleted_adapter_that_comes_back_has_no_past(bot: Ledger, tmp_path: Path) -> None:
    bot.aliases.point(BOT, "canary", 1, weight=0.5)
    bot.aliases.set_sampling(BOT, {"temperature": 0.5})
    bot.registry.delete(BOT)
    publish(bot, claimed(bot), tmp_path)
    adapter = bot.registry.get(BOT)
    assert (adapter.aliases, adapter.weights, adapter.sampling) == ({"live": 4}, {}, {})
    with pytest.raises(InvalidRequest):
        bot.aliases.roll_back(BOT)


def test_a_version_with_an_alias_is_kept_unless_it_is_deleted_as_a_model(bot: Ledger) -> None:
    bot.aliases.point(BOT, "canary", 1, weight=0.5)
    with pytest.raises(InvalidRequest, match=r"'canary' of support-bot\. Remove that alias"):
        bot.registry.delete_version(BOT, 1)
    bot.registry.delete_model(bot.registry.version(f"{BOT}@1"))
    adapter = bot.registry.get(BOT)
    assert (adapter.aliases, adapter.weights) == ({"live": 3}, {})


def test_sampling_defaults_are_replaced_as_a_whole(bot: Ledger) -> None:
    for sampling in ({"temperature": 0.5, "stop": ["x"]}, {"top_p": 0.9}, {}, {}):
        assert bot.aliases.set_sampling(BOT, sampling).sampling == sampling
        assert bot.registry.get(BOT).sampling == sampling


@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(moves=st.lists(st.integers(0, 3), max_size=12))
def test_the_history_of_live_is_a_stack(bot: Ledger, moves: list[int]) -> None:
    """A move of 0 rolls back, any other promotes that version."""
    bot.aliases.promote(BOT, 3)
    with suppress(InvalidRequest):
        while True:  # an example begins at the bottom, wherever the one before it ended
            bot.aliases.roll_back(BOT)
    stack = [live(bot)]
    for move in moves:
        if move:
            bot.aliases.promote(BOT, move)
            stack += [move] if stack[-1] != move else []
        elif len(stack) > 1:
            bot.aliases.roll_back(BOT)
            stack.pop()
        else:
            with pytest.raises(InvalidRequest):
                bot.aliases.roll_back(BOT)
        assert live(bot) == stack[-1]
