from hypothesis import given, strategies as st

from cli.launcher.backoff import Backoff


def test_quick_deaths_double_the_pause_up_to_the_most():
    backoff = Backoff()
    pauses = [backoff.after(1.0) for _ in range(9)]
    assert pauses == [0.5, 1, 2, 4, 8, 16, 30, 30, 30]


def test_a_minute_of_health_forgives_everything():
    backoff = Backoff()
    for _ in range(5):
        backoff.after(1.0)
    assert backoff.after(60.0) == 0.5
    assert backoff.after(59.9) == 1.0


@given(st.lists(st.floats(0, 1e6)))
def test_a_pause_is_never_outside_its_bounds(lives):
    backoff = Backoff(first=0.25, most=3.0, healthy_after=10.0)
    assert all(0.25 <= backoff.after(lived) <= 3.0 for lived in lives)
