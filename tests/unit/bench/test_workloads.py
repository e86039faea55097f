"""What everyone is given to train."""

import pytest

from bench.measure import CannotRun
from bench.workloads import IGNORED, Tokens, Workload, chosen, lesson, skewed_lengths, workloads


def test_the_same_seed_is_the_same_lesson_and_another_seed_another():
    assert lesson(1, [16, 8]) == lesson(1, [16, 8])
    assert lesson(1, [16]).rows != lesson(2, [16]).rows


def test_the_last_half_of_a_row_is_learnt():
    (row,) = lesson(1, [6]).rows
    assert row.is_target == (False, False, False, True, True, True)
    assert row.labels == (IGNORED, IGNORED, IGNORED, *row.ids[3:])
    assert lesson(1, [6, 4]).targets == 5
    assert lesson(1, [6, 4]).tokens == 10


def test_the_first_token_is_never_a_target_since_nothing_predicts_it():
    assert Tokens((7, 8), (True, True)).targets == 1


def test_padding_is_counted_within_each_job():
    even = Workload(name="a", what="", lessons=[lesson(1, [4]), lesson(2, [8])], steps=1)
    assert even.padding == 1
    uneven = Workload(name="a", what="", lessons=[lesson(1, [4, 8])], steps=1)
    assert uneven.padding == pytest.approx(16 / 12)


def test_skewed_lengths_are_bounded_and_mostly_short():
    lengths = skewed_lengths(0, 999, median=60, sigma=0.8, longest=400)
    assert min(lengths) >= 16
    assert max(lengths) == 400
    assert 50 < sorted(lengths)[len(lengths) // 2] < 70


def test_the_workloads_are_what_their_names_say():
    shapes = {
        workload.name: (len(workload.lessons), {len(one.rows) for one in workload.lessons})
        for workload in workloads()
    }
    assert shapes == {
        "tiny8": (8, {1}),
        "short16": (16, {1}),
        "instruct8": (8, {2}),
        "instruct1": (1, {4}),
        "skewed": (1, {16}),
    }
    tiny, short, *_, skewed = workloads()
    assert tiny.tokens == 8 * 16
    assert all(12 <= len(one.rows[0]) <= 40 for one in short.lessons)
    assert skewed.padding > 2
    for workload in workloads():
        seeds = [one.seed for one in workload.lessons]
        assert len(set(seeds)) == len(seeds), "jobs are told apart by their seeds"


def test_names_choose_workloads_in_the_order_given_and_none_means_all():
    assert [one.name for one in chosen(workloads(), ["skewed", "tiny8"])] == ["skewed", "tiny8"]
    assert chosen(workloads(), []) == workloads()
    with pytest.raises(CannotRun, match="'huge'; there are: tiny8"):
        chosen(workloads(), ["huge"])
