"""Buckets: what gets in within a minute, and what those are told who do not."""

from dataclasses import dataclass

import pytest
from hypothesis import given, settings, strategies as st

from adapters.errors import Overloaded
from adapters.settings import Quota
from service.rates import Foreseen, Rates, foresee
from tests.support.clock import Clock

NOTHING = Foreseen(0, 0)


@dataclass
class Ask:
    """Time that passes, and a request after it."""

    after: float
    tokens: int


asks = st.lists(
    st.builds(Ask, st.sampled_from([0.0, 0.1, 1.0, 7.5, 60.0]), st.integers(1, 300)), max_size=60
)


def admitted(rates: Rates, foreseen: Foreseen = NOTHING) -> bool:
    try:
        rates.admit(foreseen)
    except Overloaded:
        return False
    return True


@settings(max_examples=150, deadline=None)
@given(asks, st.integers(1, 20), st.integers(1, 200))
def test_within_no_stretch_of_time_more_gets_in_than_was_there_and_has_come(
    history: list[Ask], requests: int, tokens: int
) -> None:
    clock = Clock()
    rates = Rates(Quota(requests_per_minute=requests, tokens_per_minute=tokens), clock=clock)
    let_in: list[tuple[float, int]] = []
    for ask in history:
        clock.tick(ask.after)
        if admitted(rates, Foreseen(ask.tokens, 0)):
            let_in.append((clock.now, ask.tokens))
    for first, (start, _) in enumerate(let_in):
        within = let_in[first:]
        for last, (end, _) in enumerate(within, start=1):
            assert last <= requests * (1 + (end - start) / 60) + 1e-6
            # But for the last, which may take more than there ever is, once all is there.
            before = sum(cost for _, cost in within[: last - 1])
            assert before <= tokens * (1 + (end - start) / 60) + 1e-6


@settings(max_examples=150, deadline=None)
@given(asks, st.integers(1, 20), st.integers(1, 200))
def test_who_waits_as_long_as_told_gets_in_and_who_comes_sooner_does_not(
    history: list[Ask], requests: int, tokens: int
) -> None:
    clock = Clock()
    rates = Rates(Quota(requests_per_minute=requests, tokens_per_minute=tokens), clock=clock)
    for ask in history:
        clock.tick(ask.after)
        foreseen = Foreseen(0, ask.tokens)
        try:
            rates.admit(foreseen)
        except Overloaded as told:
            wait = told.retry_after
            assert wait is not None
            assert wait > 0
            clock.tick(wait * 0.99)
            before = rates.look()
            if wait > 1e-3:
                with pytest.raises(Overloaded):
                    rates.admit(foreseen)
                assert rates.look() == before, "who is refused takes nothing"
            # One bucket may say less than the other; then it is told again.
            for _ in range(2):
                clock.tick(wait * 0.01 + 1e-6)
                try:
                    rates.admit(foreseen)
                    break
                except Overloaded as again:
                    wait = again.retry_after or 0.0
                    clock.tick(wait)
            else:
                rates.admit(foreseen)


def test_a_request_is_settled_by_what_it_came_to() -> None:
    clock = Clock()
    rates = Rates(Quota(tokens_per_minute=600), clock=clock)
    foreseen = Foreseen(prompt=100, output=200)

    def left_after(outcome: str, prompt: int, completion: int) -> int:
        clock.tick(600)
        rates.admit(foreseen)
        assert rates.look()["tokens"].remaining == 300
        rates.settle(foreseen, outcome, prompt, completion)
        return rates.look()["tokens"].remaining

    assert left_after("ok", 90, 10) == 500
    assert left_after("ok", 0, 10) == 490, "a stream without usage: the prompt as it was foreseen"
    assert left_after("cancelled", 0, 7) == 493
    assert left_after("overloaded", 0, 0) == 600
    assert left_after("engine_error", 0, 0) == 600
    assert left_after("engine_error", 0, 5) == 495
    assert left_after("ok", 90, 1000) == 0


def test_what_was_overdrawn_has_to_come_back_first() -> None:
    clock = Clock()
    rates = Rates(Quota(tokens_per_minute=60), clock=clock)
    rates.admit(Foreseen(10, 0))
    rates.settle(Foreseen(10, 0), "ok", 10, 80)
    with pytest.raises(Overloaded, match="60 tokens per minute, and this needs 1") as told:
        rates.admit(Foreseen(1, 0))
    assert told.value.retry_after == pytest.approx(31)
    assert rates.look()["tokens"].reset == pytest.approx(90)


def test_what_needs_more_than_there_ever_is_gets_in_when_all_is_there() -> None:
    clock = Clock()
    rates = Rates(Quota(tokens_per_minute=60), clock=clock)
    assert admitted(rates, Foreseen(1000, 0))
    assert not admitted(rates, Foreseen(1000, 0))
    clock.tick(1000)
    assert admitted(rates, Foreseen(1000, 0))


def test_headers_speak_of_what_is_bounded() -> None:
    assert Rates(Quota()).headers() == {}
    clock = Clock()
    rates = Rates(Quota(requests_per_minute=60), clock=clock)
    rates.admit(NOTHING)
    assert rates.headers() == {
        "x-ratelimit-limit-requests": "60",
        "x-ratelimit-remaining-requests": "59",
        "x-ratelimit-reset-requests": "1.000s",
    }


@pytest.mark.parametrize(
    ("body", "output"),
    [
        ({}, 0),
        ({"max_tokens": 7}, 7),
        ({"max_tokens": 7, "max_completion_tokens": 9, "n": 3}, 27),
        ({"max_output_tokens": 5, "n": 1}, 5),
        ({"max_tokens": "7", "n": None}, 0),
        ({"max_tokens": -1}, 0),
    ],
)
def test_what_a_request_says_is_what_is_foreseen(body: dict[str, object], output: int) -> None:
    assert foresee(body, 400) == Foreseen(100, output)
