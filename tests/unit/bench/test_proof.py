"""A benchmark has no figure where the two sides did not do the same work."""

from dataclasses import replace

import pytest

from bench.proof import Outcome, check_same_work

DONE = Outcome(1.0, (12.0, 11.5), (3.0, 2.5))


def test_rounding_is_no_difference_and_neither_is_time():
    check_same_work(DONE, Outcome(9.0, (12.0 + 1e-5, 11.5), (3.0, 2.5 - 1e-4)))


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"losses": (12.0, 12.0)}, "loss 1"),
        ({"grad_norms": (3.0, 2.4)}, "gradient norm 1"),
        ({"grad_norms": (0.0, 2.5)}, "gradient norm 0 is 0"),
        ({"losses": (12.0, float("nan"))}, "loss 1 is nan"),
        ({"losses": (12.0,)}, "1 against 2 of loss"),
        ({"losses": ()}, "no loss"),
    ],
)
def test_less_work_or_other_work_is_found_out(changes, complaint):
    with pytest.raises(AssertionError, match=complaint):
        check_same_work(replace(DONE, **changes), DONE)


def test_two_sides_that_both_did_nothing_are_not_the_same_work():
    idle = replace(DONE, grad_norms=(0.0, 0.0))
    with pytest.raises(AssertionError, match="gradient norm 0"):
        check_same_work(idle, idle)
