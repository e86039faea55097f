"""The statistics and the turn-taking that every printed figure goes through."""

import pytest

from bench.measure import (
    Settings,
    Spread,
    interleave,
    percentile,
    seconds,
    speedups,
    spread,
    take_turns,
)


def recorder(log, name, values):
    left = iter(values)

    def act():
        log.append(name)
        return next(left)

    return act


def test_ours_and_peer_take_turns_ours_first():
    log = []
    pairs = interleave(
        3, recorder(log, "ours", [1, 2, 3]), recorder(log, "peer", [10, 20, 30]), warm=0
    )
    assert log == ["ours", "peer"] * 3
    assert pairs == [(1, 10), (2, 20), (3, 30)]


def test_warm_pairs_are_run_and_thrown_away():
    log = []
    pairs = interleave(2, recorder(log, "a", "xyz"), recorder(log, "b", "XYZ"))
    assert log == ["a", "b"] * 3
    assert pairs == [("y", "Y"), ("z", "Z")]


def test_any_number_of_contestants_take_turns_in_the_same_order_every_round():
    log = []
    acts = {name: recorder(log, name, [1, 2, 3]) for name in ("ours", "peft", "trl")}
    turns = take_turns(2, acts, warm=1)
    assert log == ["ours", "peft", "trl"] * 3
    assert turns == [{"ours": n, "peft": n, "trl": n} for n in (2, 3)]


def test_a_measurement_that_fails_ends_the_benchmark():
    def broken():
        raise AssertionError("another loss than the peer's")

    with pytest.raises(AssertionError, match="another loss"):
        interleave(5, broken, lambda: 1)


def test_garbage_of_one_side_is_collected_before_the_others_turn(monkeypatch):
    log = []
    monkeypatch.setattr("bench.measure.gc.collect", lambda: log.append("collect"))
    interleave(1, recorder(log, "ours", [0]), recorder(log, "peer", [0]), warm=0)
    assert log == ["collect", "ours", "collect", "peer"]


def test_spread_is_the_median_and_the_extremes():
    assert spread([5.0, 1.0, 3.0]) == Spread(3.0, 1.0, 5.0)
    assert spread([4.0, 1.0]) == Spread(2.5, 1.0, 4.0)
    assert spread([7.0]) == Spread(7.0, 7.0, 7.0)


def test_percentiles_are_values_that_were_measured():
    values = [float(n) for n in range(100, 0, -1)]
    assert percentile(values, 0.5) == 50.0
    assert percentile(values, 0.99) == 99.0
    assert percentile(values, 1.0) == 100.0
    assert percentile(values, 0.07) == 7.0  # 0.07 * 100 is a little more than 7
    assert percentile([3.0], 0.01) == 3.0


@pytest.mark.parametrize("share", [0, -0.1, 1.1, 99])
def test_a_percentile_is_a_share_not_a_percentage(share):
    with pytest.raises(ValueError, match="share"):
        percentile([1.0, 2.0], share)


def test_speedups_are_above_one_where_ours_is_faster_whatever_the_unit():
    assert speedups([200.0, 100.0], [100.0, 200.0], "higher") == [2.0, 0.5]
    assert speedups([2.0, 4.0], [4.0, 2.0], "lower") == [2.0, 0.5]


def test_speedups_are_of_the_same_round():
    """A machine that is three times as slow in the second round changes nothing."""
    assert speedups([6.0, 2.0], [3.0, 1.0], "higher") == [2.0, 2.0]


def test_rounds_must_pair_up():
    with pytest.raises(ValueError, match="shorter"):
        speedups([1.0, 2.0], [1.0], "higher")


def test_seconds_reads_the_clock_before_and_after():
    ticks = iter([10.0, 12.5])
    done = []
    assert seconds(lambda: done.append(1), lambda: next(ticks)) == 2.5
    assert done == [1]


def test_no_rounds_are_refused(tmp_path):
    with pytest.raises(ValueError, match="one round"):
        Settings(rounds=0, home=tmp_path)
