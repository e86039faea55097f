"""Adapters side by side: whose products are batched, and that moving in and out changes nobody's numbers."""

import pytest
import torch

from adapters.spec import LoraSpec
from tests.integration.training.tiny import make_base, randomise
from trainer.warm.cohort import Cohorts
from trainer.warm.plan import Alone, Plan, Segment, Together


@pytest.fixture(scope="module")
def base(model_dir):
    return make_base(model_dir, torch.float64)


def adapters(base, count, **lora):
    made = [
        base.new_adapter(LoraSpec(**{"rank": 4, "alpha": 8.0, **lora}), seed)
        for seed in range(count)
    ]
    for seed, adapter in enumerate(made):
        randomise(adapter, seed=seed)
        adapter.gradient_P.normal_(generator=torch.Generator().manual_seed(seed))
    return made


def segments(lengths_and_adapters):
    start = 0
    for length, adapter in lengths_and_adapters:
        yield Segment(start, start + length, adapter)
        start += length


def plan(segments, cohorts, most_tokens):
    tokens = segments[-1].stop
    return Plan.of(segments, cohorts, most_tokens, tokens)


def spans(plan):
    """Start and stop of each part, and whether it is batched."""
    found = []
    for part in plan.parts:
        match part:
            case Alone(segment):
                found.append((segment.start, segment.stop, False))
            case Together(tokens):
                found.append((tokens.start, tokens.stop, True))
    return found


def test_an_adapter_that_joins_or_leaves_keeps_weights_and_gradient(base):
    cohorts, joined = Cohorts(), adapters(base, 7)
    before = [(one.weights_P.clone(), one.gradient_P.clone()) for one in joined]
    for one in joined[:4]:
        cohorts.join(one)
    cohorts.leave(joined[1])
    for one in joined[4:]:
        cohorts.join(one)
    for one, (weights_P, gradient_P) in zip(joined, before, strict=True):
        assert torch.equal(one.weights_P, weights_P)
        assert torch.equal(one.gradient_P, gradient_P)
        factors = next(iter(one.factors.values()))
        assert factors.a_SI.data_ptr() == one.weights_P.data_ptr()


def test_weights_of_an_adapter_that_has_left_are_never_written_to_by_another(base):
    cohorts, (leaver, *others) = Cohorts(), adapters(base, 6)
    cohorts.join(leaver)
    held_P = leaver.weights_P
    expected_P = held_P.clone()
    cohorts.leave(leaver)
    for one in others:
        cohorts.join(one)
        one.weights_P.zero_()
    assert torch.equal(held_P, expected_P)


def test_neighbours_in_batch_and_cohort_are_computed_together(base):
    cohorts, joined = Cohorts(), adapters(base, 4)
    for one in joined:
        cohorts.join(one)
    parts = plan(list(segments([(5, one) for one in joined])), cohorts, most_tokens=5)
    assert spans(parts) == [(0, 20, True)]


def test_whoever_is_large_drops_out_or_is_of_another_form_is_computed_alone(base):
    cohorts = Cohorts()
    first, second, large, fourth = adapters(base, 4)
    (dropping,), (wider,), (stranger,) = (
        adapters(base, 1, dropout=0.1),
        adapters(base, 1, rank=8),
        adapters(base, 1),
    )
    for one in (first, second, large, fourth, dropping, wider):
        cohorts.join(one)
    lengths = [5, 5, 50, 5, 5, 5, 5]
    order = [first, second, large, fourth, dropping, wider, stranger]
    parts = plan(list(segments(zip(lengths, order, strict=True))), cohorts, most_tokens=20)
    batched = [(0, 10, True)]
    assert spans(parts)[:1] == batched
    assert [one for _, _, one in spans(parts)[1:]] == [False] * 5


def test_one_long_job_does_not_pad_many_short_ones(base):
    cohorts, joined = Cohorts(), adapters(base, 5)
    for one in joined:
        cohorts.join(one)
    lengths = [2, 2, 2, 2, 60]
    parts = plan(list(segments(zip(lengths, joined, strict=True))), cohorts, most_tokens=100)
    assert spans(parts) == [(0, 8, True), (8, 68, False)]


def test_a_gap_in_the_cohort_parts_those_around_it(base):
    cohorts, joined = Cohorts(), adapters(base, 4)
    for one in joined:
        cohorts.join(one)
    cohorts.leave(joined[1])
    staying = [joined[0], joined[2], joined[3]]
    parts = plan(list(segments([(5, one) for one in staying])), cohorts, most_tokens=5)
    assert spans(parts) == [(0, 5, False), (5, 15, True)]


def test_what_is_nobodys_lies_between_the_parts(base):
    first, second = adapters(base, 2)
    segments = [Segment(2, 5, first), Segment(5, 6, second), Segment(8, 9, first)]

    for tokens in (9, 12):
        found = Plan.of(segments, Cohorts(), 0, tokens).cut(torch.arange(tokens))
        assert [piece.tolist() for piece in found] == [[2, 3, 4], [5], [8]]

    assert list(Plan.of([], Cohorts(), 0, 4).cut(torch.arange(4))) == []


def test_a_cohort_that_everybody_left_is_forgotten(base):
    cohorts, joined = Cohorts(), adapters(base, 2)
    for one in joined:
        cohorts.join(one)
    for one in joined:
        cohorts.leave(one)
    assert all(cohorts.find(one) is None for one in joined)
    assert not cohorts._of_form
