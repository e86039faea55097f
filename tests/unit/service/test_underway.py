import asyncio

import pytest

from service import underway
from service.underway import Underway


async def test_a_service_that_stops_waits_for_the_last_words_of_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(underway, "_LAST_WORDS_S", 60)
    requests, told = Underway(), []

    async def answer(name: str, seconds: float) -> None:
        with requests.one():
            await asyncio.sleep(seconds)
            told.append(name)

    answers = [asyncio.create_task(answer(name, 0.01 * n)) for n, name in enumerate("ab", start=1)]
    await asyncio.sleep(0)
    await requests.end()
    assert told == ["a", "b"]
    await asyncio.gather(*answers)


async def test_nobody_who_takes_nothing_keeps_it_from_stopping(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(underway, "_LAST_WORDS_S", 0.01)
    requests = Underway()
    await requests.end()
    with requests.one():
        async with asyncio.timeout(30):
            await requests.end()
