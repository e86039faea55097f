import hashlib

from hypothesis import given, strategies as st

from adapters.records import Adapter
from service.split import answering, anybody, draw, looking_on
from tests.support.samples import version

names = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,20}", fullmatch=True)


def adapter(**weights: float) -> Adapter:
    """Version 1 is live, 2 the canary and 3 the shadow."""
    return Adapter(
        name="support-bot",
        base_model="tiny-base",
        created_at=0.0,
        versions=tuple(version(number) for number in (1, 2, 3)),
        aliases={"live": 1, "canary": 2, "shadow": 3},
        weights=weights,
    )


def test_the_draw_is_the_one_that_is_documented() -> None:
    digest = hashlib.sha256(b"support-bot\0user-1").digest()
    bits = "".join(f"{byte:08b}" for byte in digest)[:53]
    assert draw("support-bot", "user-1") == int(bits, 2) / 2**53
    assert draw("support-bot", "user-1") == 0.5839687173171182


@given(name=names, ticket=st.text(st.characters(codec=None)))
def test_a_draw_is_a_share_whatever_the_user_is_called(name: str, ticket: str) -> None:
    assert 0 <= draw(name, ticket) < 1


@given(ticket=st.text(), small=st.floats(0, 1), large=st.floats(0, 1))
def test_who_is_with_the_canary_stays_while_its_share_grows(
    ticket: str, small: float, large: float
) -> None:
    small, large = sorted((small, large))
    before = answering(adapter(canary=small), ticket)
    after = answering(adapter(canary=large), ticket)
    assert (before.number, after.number) in {(1, 1), (1, 2), (2, 2)}


def test_a_share_is_what_it_says() -> None:
    split = adapter(canary=0.2)
    users = [answering(split, f"user-{n}").number for n in range(5000)]
    assert 0.18 < users.count(2) / len(users) < 0.22
    chance = [answering(split, anybody()).number for _ in range(5000)]
    assert 0.16 < chance.count(2) / len(chance) < 0.24


def test_nobody_is_the_first_to_try_everything() -> None:
    first = {f"user-{n}" for n in range(2000) if draw("a", f"user-{n}") < 0.1}
    others = {f"user-{n}" for n in range(2000) if draw("b", f"user-{n}") < 0.1}
    assert len(first & others) < 0.3 * len(first)


def test_without_a_share_there_is_neither_canary_nor_shadow() -> None:
    assert {answering(adapter(), f"user-{n}").number for n in range(50)} == {1}
    assert looking_on(adapter()) is None
    assert looking_on(adapter(shadow=1.0)).number == 3
    assert answering(adapter(canary=1.0), "anybody").number == 2
