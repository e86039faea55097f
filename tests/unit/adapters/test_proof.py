"""What tells an adapter that is not applied, and another one, from rounding."""

from math import inf, nan

import pytest
from hypothesis import given, strategies as st

from adapters.manifest import Probe
from adapters.proof import (
    Measured,
    Outcome,
    Verdict,
    compare,
    most_telling_first,
    tells_enough,
    tolerance,
    verify_alone,
)

FORMATS = ("float32", "float16", "bfloat16")
BASE = (-4.0, -3.0, -2.5, -5.0, -1.0, -2.0)
ADAPTER = (-0.1, -0.2, -0.1, -0.3, -0.01, -0.2)
CUT = slice(0, 4), slice(4, 6)
OTHER = (-6.0, -2.0, -0.1, -7.0, -3.0, -1.0)

noises = st.lists(st.floats(-0.99, 0.99), min_size=6, max_size=6)


def moved(logprobs: tuple[float, ...], by: list[float], within: float) -> list[float]:
    return [one + within * share for one, share in zip(logprobs, by, strict=True)]


def verdict(
    adapter: list[float] | tuple[float, ...],
    base: list[float] | tuple[float, ...],
    within: float = 0.01,
    told: tuple[float, ...] = ADAPTER,
) -> Verdict:
    """Of two probes, with four reply tokens and with two."""
    measured = [Measured(adapter_logprobs=adapter[at], base_logprobs=base[at]) for at in CUT]
    return compare(probes_of(told), measured, within=within)


def alone(
    adapter: list[float] | tuple[float, ...],
    within: float = 0.01,
    told: tuple[float, ...] = ADAPTER,
) -> Verdict | None:
    """The same of the adapter's answers only."""
    return verify_alone(probes_of(told), [adapter[at] for at in CUT], within=within)


def probes_of(told: tuple[float, ...]) -> list[Probe]:
    return [
        Probe(
            token_ids=(1, *range(len(told[at]))),
            reply_start=1,
            adapter_logprobs=told[at],
            base_logprobs=BASE[at],
        )
        for at in CUT
    ]


@pytest.mark.parametrize("computed", FORMATS)
@given(noises, noises)
def test_what_rounding_does_is_never_held_against_a_version(
    computed: str, one: list[float], other: list[float]
) -> None:
    within = tolerance(computed)
    found = verdict(moved(ADAPTER, one, within), moved(BASE, other, within / 4), within)
    assert found.outcome is Outcome.VERIFIED


@pytest.mark.parametrize("computed", FORMATS)
@given(noises, noises)
def test_the_base_models_answers_are_never_taken_for_the_adapters(
    computed: str, one: list[float], other: list[float]
) -> None:
    within = tolerance(computed)
    base = moved(BASE, other, within / 4)
    found = verdict(moved(tuple(base), one, within / 4), base, within)
    assert found.outcome is Outcome.QUARANTINED
    assert "as the base model does" in found.reason


@given(st.lists(st.floats(-9, 0), min_size=6, max_size=6), noises, st.floats(0.001, 0.5))
def test_whatever_an_adapter_learnt_what_is_verified_is_not_what_the_base_would_say(
    told: list[float], noise: list[float], within: float
) -> None:
    base = moved(BASE, noise, within / 4)
    assert verdict(base, base, within, tuple(told)).outcome is not Outcome.VERIFIED


@pytest.mark.parametrize("computed", FORMATS)
def test_another_adapter_is_not_taken_for_this_one(computed: str) -> None:
    found = verdict(OTHER, BASE, tolerance(computed))
    assert found.outcome is Outcome.QUARANTINED
    assert "some other adapter" in found.reason


def test_an_adapter_that_changes_hardly_anything_is_inconclusive_and_another_in_its_place_is_not() -> (
    None
):
    barely = tuple(one + 0.01 for one in BASE)
    assert verdict(barely, BASE, told=barely).outcome is Outcome.INCONCLUSIVE
    assert verdict(barely, BASE, told=barely).lasts
    assert verdict(BASE, BASE, told=barely).outcome is Outcome.INCONCLUSIVE
    assert verdict(OTHER, BASE, told=barely).outcome is Outcome.QUARANTINED


def test_a_base_model_that_strays_condemns_no_adapter() -> None:
    strays = [one - 2 for one in BASE]
    assert verdict([one - 2 for one in ADAPTER], strays).outcome is Outcome.INCONCLUSIVE
    assert verdict(ADAPTER, [nan] * 6).outcome is Outcome.INCONCLUSIVE
    assert verdict([nan] * 6, [nan] * 6).outcome is Outcome.INCONCLUSIVE
    # It may be for a moment only, so the next load looks again.
    assert not verdict([one - 2 for one in ADAPTER], strays).lasts
    assert not verdict([nan] * 6, [nan] * 6).lasts


@pytest.mark.parametrize("broken", [nan, inf, -inf])
def test_numbers_that_are_not_finite_are_no_rounding(broken: float) -> None:
    assert verdict((*ADAPTER[:5], broken), BASE).outcome is Outcome.QUARANTINED


def test_the_coarser_of_two_formats_counts_and_an_unknown_one_is_coarse() -> None:
    assert tolerance("float32") < tolerance("float16") < tolerance("bfloat16")
    assert tolerance("float32", "bfloat16") == tolerance("bfloat16")
    assert tolerance("float32", "auto") == tolerance("bfloat16")


# ---------------------------------------------------------------- without asking the base model


def test_the_probe_that_the_adapter_changes_most_comes_first() -> None:
    four, two = probes_of(ADAPTER)
    assert most_telling_first([two, four]) == [four, two]
    barely = (*(one - 0.01 for one in BASE[:4]), *ADAPTER[4:])
    four, two = probes_of(barely)
    assert most_telling_first([four, two]) == [two, four]


@pytest.mark.parametrize("computed", FORMATS)
@given(noises)
def test_an_adapter_that_is_applied_needs_no_second_question(
    computed: str, noise: list[float]
) -> None:
    within = tolerance(computed)
    found = alone(moved(ADAPTER, noise, within), within)
    assert found is not None
    assert found.outcome is Outcome.VERIFIED
    assert found.lasts


@given(
    st.lists(st.floats(-9, 0), min_size=6, max_size=6),
    st.lists(st.floats(-9, 0), min_size=6, max_size=6),
    noises,
    st.floats(0.001, 0.5),
)
def test_what_is_verified_without_the_base_models_answers_would_be_with_them(
    told: list[float], adapter: list[float], noise: list[float], within: float
) -> None:
    base = moved(BASE, noise, within / 4)
    if alone(adapter, within, tuple(told)) is not None:
        assert verdict(adapter, base, within, tuple(told)).outcome is Outcome.VERIFIED


@given(st.lists(st.floats(-9, 0), min_size=6, max_size=6), noises, st.floats(0.001, 0.5))
def test_the_base_models_answers_alone_never_verify_an_adapter(
    told: list[float], noise: list[float], within: float
) -> None:
    assert alone(moved(BASE, noise, within), within, tuple(told)) is None


@pytest.mark.parametrize("broken", [nan, inf, -inf])
def test_what_is_no_number_verifies_nothing(broken: float) -> None:
    assert alone((*ADAPTER[:5], broken)) is None
    assert alone([nan] * 6) is None


def test_an_adapter_that_changes_hardly_anything_is_not_verified_alone() -> None:
    barely = tuple(one + 0.01 for one in BASE)
    assert alone(barely, told=barely) is None


@pytest.mark.parametrize(
    ("apart", "tokens", "enough"),
    [(0.6, 12, True), (0.4, 12, False), (0.6, 8, True), (0.6, 7, False), (nan, 12, False)],
)
def test_one_probe_is_enough_where_no_format_explains_it_on_plenty_of_tokens(
    apart: float, tokens: int, enough: bool
) -> None:
    probe = Probe(
        token_ids=tuple(range(tokens + 1)),
        reply_start=1,
        adapter_logprobs=(-1.0,) * tokens,
        base_logprobs=(-1.0 - apart,) * tokens,
    )
    assert tells_enough(probe) is enough
