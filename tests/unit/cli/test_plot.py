from hypothesis import given, strategies as st

from cli.plot import plot


def test_a_falling_loss_falls():
    lines = plot([(step, 3.0 - step / 10) for step in range(1, 21)], width=10, height=3)
    assert lines == [
        "   2.900 ┤⠑⠢⢄⡀⠀⠀⠀⠀⠀⠀",
        "         ┤⠀⠀⠀⠈⠒⠤⡀⠀⠀⠀",
        "   1.000 ┤⠀⠀⠀⠀⠀⠀⠈⠑⠢⢄",
        "          step 1 step 20",
    ]


def test_less_than_two_points_are_no_curve():
    assert plot([]) == plot([(1, 2.0)]) == []


def test_a_flat_line_is_drawn_at_the_bottom():
    lines = plot([(1, 2.0), (2, 2.0)], width=4, height=2)
    assert lines[0].endswith("⠀⠀⠀⠀")
    assert not lines[1].endswith("⠀⠀⠀⠀")


finite = st.floats(-1e6, 1e6)


@given(st.lists(st.tuples(finite, finite), min_size=2), st.integers(20, 80), st.integers(2, 10))
def test_any_points_fit_into_the_frame(points, width, height):
    lines = plot(points, width=width, height=height)
    assert len(lines) == height + 1
    assert all(len(line.partition("┤")[2]) == width for line in lines[:-1])
