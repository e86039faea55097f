"""Keys from memory: asked for once, forgotten in time, good while the database is away."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from adapters.errors import Unauthenticated, Unavailable
from adapters.keys import Key, Scope, digest_of, hint_of, new_secret
from service.keys.ring import REMEMBERED_S, KeyRing
from tests.support.clock import Clock


class Cabinet:
    """One key, and how often it was asked for."""

    def __init__(self) -> None:
        self.secret = new_secret()
        self.key = Key(
            id="key_1",
            tenant="ours",
            name="",
            digest=digest_of(self.secret),
            hint=hint_of(self.secret),
            scopes=(Scope.INFER,),
            created_at=0.0,
            expires_at=None,
            last_used_at=None,
            revoked_at=None,
        )
        self.asked, self.away = 0, False

    def find(self, digest: str) -> Key | None:
        self.asked += 1
        if self.away:
            raise Unavailable("The ledger's database does not answer.")
        return self.key if digest == self.key.digest else None


@pytest.fixture
def cabinet() -> Cabinet:
    return Cabinet()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def ring(cabinet: Any, clock: Clock) -> KeyRing:
    return KeyRing(cabinet, clock=clock, timer=clock)


async def test_a_key_is_asked_for_once_in_a_while(
    ring: KeyRing, cabinet: Cabinet, clock: Clock
) -> None:
    for _ in range(50):
        caller = await ring.caller_of(cabinet.secret)
    assert (caller.tenant, caller.scopes, caller.key_id) == ("ours", {Scope.INFER}, "key_1")
    assert cabinet.asked == 1
    clock.tick(REMEMBERED_S)
    await ring.caller_of(cabinet.secret)
    assert cabinet.asked == 2


async def test_requests_that_come_together_ask_once(ring: KeyRing, cabinet: Cabinet) -> None:
    callers = await asyncio.gather(*(ring.caller_of(cabinet.secret) for _ in range(50)))
    assert cabinet.asked == 1
    assert len(set(callers)) == 1


async def test_a_revoked_key_is_good_for_no_longer_than_it_is_remembered(
    ring: KeyRing, cabinet: Cabinet, clock: Clock
) -> None:
    await ring.caller_of(cabinet.secret)
    cabinet.key = replace(cabinet.key, revoked_at=clock.now)
    clock.tick(REMEMBERED_S)
    with pytest.raises(Unauthenticated, match="key_1, has been revoked"):
        await ring.caller_of(cabinet.secret)
    assert REMEMBERED_S <= 5


async def test_a_key_expires_to_the_second_also_where_it_is_remembered(
    ring: KeyRing, cabinet: Cabinet, clock: Clock
) -> None:
    cabinet.key = replace(cabinet.key, expires_at=clock.now + 1)
    await ring.caller_of(cabinet.secret)
    clock.tick(1)
    with pytest.raises(Unauthenticated, match="has expired"):
        await ring.caller_of(cabinet.secret)
    assert cabinet.asked == 1


async def test_what_has_not_the_form_of_a_key_is_not_looked_up(
    ring: KeyRing, cabinet: Cabinet
) -> None:
    for wrong in ("sk-proj-1", cabinet.secret + "x", cabinet.secret[:-1], "graft-" + "\xe9" * 43):
        with pytest.raises(Unauthenticated, match="Incorrect API key"):
            await ring.caller_of(wrong)
    assert cabinet.asked == 0


async def test_wrong_keys_do_not_fill_the_memory(
    ring: KeyRing, cabinet: Cabinet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.keys.ring._MOST_REMEMBERED", 3)
    for _ in range(10):
        await ring.caller_of(cabinet.secret)
        with pytest.raises(Unauthenticated):
            await ring.caller_of(new_secret())
    assert len(ring._seen) == 3
    assert cabinet.asked == 1 + 10  # the one that is used is not forgotten


async def test_while_the_database_is_away_a_key_stays_what_it_was_for_some_minutes(
    ring: KeyRing, cabinet: Cabinet, clock: Clock
) -> None:
    await ring.caller_of(cabinet.secret)
    cabinet.away = True
    clock.tick(200)
    assert (await ring.caller_of(cabinet.secret)).key_id == "key_1"
    with pytest.raises(Unavailable):
        await ring.caller_of(new_secret())
    clock.tick(101)
    with pytest.raises(Unavailable):
        await ring.caller_of(cabinet.secret)


async def test_who_asked_first_may_leave(ring: KeyRing, cabinet: Cabinet) -> None:
    first = asyncio.create_task(ring.caller_of(cabinet.secret))
    second = asyncio.create_task(ring.caller_of(cabinet.secret))
    await asyncio.sleep(0)
    first.cancel()
    assert (await second).tenant == "ours"
