"""Whose turn it is, without a database."""

from collections import Counter
from itertools import groupby

import pytest
from hypothesis import given, settings, strategies as st

from adapters.records import Priority
from adapters.settings import QueueSettings
from adapters.turns import Standing, Waiting, in_turn, starts

LOW, NORMAL, HIGH = Priority
NOW = 100_000.0
AGE = QueueSettings().age_seconds


def job(name: str, tenant: str = "a", priority: Priority = NORMAL, *, age: float = 0.0) -> Waiting:
    return Waiting(id=name, tenant=tenant, priority=priority, created_at=NOW - age)


def order(*waiting: Waiting, standing: Standing | None = None, **rules: object) -> list[str]:
    standing = standing or Standing(now=NOW)
    return [one.id for one in in_turn(waiting, standing, QueueSettings(**rules))]


JOBS = st.lists(
    st.builds(
        job,
        st.uuids().map(str),
        st.sampled_from("abc"),
        st.sampled_from(Priority),
        age=st.floats(0, 5 * AGE),
    ),
    max_size=30,
    unique_by=lambda one: one.id,
)
STANDINGS = st.builds(
    Standing,
    now=st.just(NOW),
    used=st.dictionaries(st.sampled_from("abc"), st.floats(0, 1e5)),
    running=st.dictionaries(st.sampled_from("abc"), st.integers(0, 9)),
    served_at=st.dictionaries(
        st.tuples(st.sampled_from("abc"), st.sampled_from(Priority)), st.floats(NOW - 1e4, NOW)
    ),
)


@given(JOBS, STANDINGS, st.integers(0, 3))
def test_everybody_has_one_turn_and_within_a_lane_the_oldest_comes_first(
    jobs, standing, max_running
):
    found = list(in_turn(jobs, standing, QueueSettings(max_running=max_running)))
    assert Counter(found) == Counter(jobs)
    lane = lambda one: (one.tenant, one.priority)  # noqa: E731
    for _, waiting in groupby(sorted(found, key=lane), key=lane):
        ages = [(one.created_at, one.id) for one in waiting]
        assert ages == sorted(ages)


@given(JOBS, STANDINGS)
def test_the_order_does_not_depend_on_how_one_reads_it(jobs, standing):
    rules = QueueSettings()
    assert list(in_turn(reversed(jobs), standing, rules)) == list(in_turn(jobs, standing, rules))


@given(JOBS, STANDINGS)
def test_nobody_more_urgent_comes_later_unless_the_other_has_aged(jobs, standing):
    fresh = [one for one in jobs if NOW - one.created_at < AGE]
    ranks = [one.priority.rank for one in in_turn(fresh, standing, QueueSettings())]
    assert ranks == sorted(ranks, reverse=True)


def test_the_more_urgent_first_then_the_older():
    assert order(
        job("old", age=9), job("low", priority=LOW, age=99), job("new"), job("high", priority=HIGH)
    ) == ["high", "old", "new", "low"]


def test_whoever_has_used_less_comes_first_whoever_came_first():
    standing = Standing(now=NOW, used={"a": 500.0, "b": 100.0})
    assert order(job("a1", "a", age=60), job("b1", "b"), standing=standing) == ["b1", "a1"]


def test_a_weight_makes_use_count_less():
    standing = Standing(now=NOW, used={"a": 500.0, "b": 100.0})
    jobs = job("a1", "a"), job("b1", "b", age=1)
    assert order(*jobs, standing=standing, weights={"a": 10}) == ["a1", "b1"]


def test_jobs_taken_up_at_one_moment_are_divided_by_weight():
    jobs = [job(f"{tenant}{n:02}", tenant) for tenant in "ab" for n in range(12)]
    first = order(*jobs, weights={"a": 2})[:9]
    assert Counter(name[0] for name in first) == {"a": 6, "b": 3}


def test_what_runs_counts_before_it_has_used_anything():
    standing = Standing(now=NOW, running={"a": 1})
    assert order(job("a1", "a", age=60), job("b1", "b"), standing=standing) == ["b1", "a1"]


def test_behind_a_hundred_of_one_tenant_another_is_next():
    flood = [job(f"a{n:03}", "a", age=60) for n in range(100)]
    for running in (1, 8, 32):
        standing = Standing(now=NOW, running={"a": running})
        assert order(*flood, job("b", "b"), standing=standing)[0] == "b"


def test_a_flood_that_is_being_served_does_not_age_past_others():
    flood = [job(f"a{n:03}", "a", age=9 * AGE) for n in range(100)]
    standing = Standing(now=NOW, running={"a": 1}, served_at={("a", NORMAL): NOW - 60})
    assert order(*flood, job("b", "b"), standing=standing)[0] == "b"


def test_a_lane_that_nobody_serves_becomes_more_urgent():
    standing = Standing(now=NOW, used={"a": 1.0})
    for age, first in ((AGE - 1, "new"), (AGE + 1, "new"), (2 * AGE + 1, "old")):
        jobs = job("old", "b", LOW, age=age), job("new", "a", HIGH)
        assert order(*jobs, standing=standing)[0] == first
    served = Standing(now=NOW, used={"a": 1.0}, served_at={("b", LOW): NOW - AGE})
    assert order(job("old", "b", LOW, age=9 * AGE), job("new", "a", HIGH), standing=served) == [
        "new",
        "old",
    ]


def test_ones_own_urgent_jobs_do_not_starve_ones_own_others():
    old, new = job("old", priority=LOW, age=2 * AGE + 1), job("new", priority=HIGH, age=1)
    assert order(old, new) == ["old", "new"]


def test_whoever_runs_as_many_as_may_waits_for_others_and_for_nobody_else():
    standing = Standing(now=NOW, running={"a": 2}, used={"b": 1e6})
    jobs = job("a1", "a", HIGH), job("a2", "a"), job("b1", "b", LOW), job("b2", "b", LOW)
    assert order(*jobs, standing=standing, max_running=2) == ["b1", "b2", "a1", "a2"]
    assert order(*jobs[:2], standing=standing, max_running=2) == ["a1", "a2"]


WEIGHTS = {"a": 1.0, "b": 2.0, "c": 4.0}


@given(
    slots=st.integers(1, 6),
    seconds=st.lists(st.floats(20, 200), min_size=3, max_size=3),
    beginning=st.dictionaries(st.sampled_from("abc"), st.floats(0, 200)),
)
@settings(max_examples=15, deadline=None)
def test_shares_come_to_the_weights_where_everybody_always_has_work(slots, seconds, beginning):
    lasts = dict(zip(WEIGHTS, seconds, strict=True))
    rules, used, got = QueueSettings(weights=WEIGHTS), Counter(beginning), Counter()
    running: list[tuple[float, str]] = []
    now, number = 0.0, 0
    while now < 20_000:
        while len(running) < slots:
            waiting = [job(f"{tenant}{number}", tenant) for tenant in WEIGHTS]
            counts = Counter(tenant for _, tenant in running)
            first = next(in_turn(waiting, Standing(now=NOW, used=used, running=counts), rules))
            running.append((now + lasts[first.tenant], first.tenant))
            number += 1
        running.sort()
        passed, kept = running[0][0] - now, 0.5 ** ((running[0][0] - now) / rules.half_life_seconds)
        for tenant in used:
            used[tenant] *= kept
        for _, tenant in running:
            used[tenant] += passed / slots
            got[tenant] += passed / slots
        now, _ = running.pop(0)
    for tenant, weight in WEIGHTS.items():
        fair = weight / sum(WEIGHTS.values())
        assert got[tenant] / sum(got.values()) == pytest.approx(fair, rel=0.2)


@pytest.mark.parametrize(
    ("count", "known", "expected"),
    [
        (2, {"ends": [], "slots": None, "lasts": None}, [None, None]),
        (3, {"ends": [], "slots": 2, "lasts": None}, [0.0, 0.0, None]),
        (3, {"ends": [], "slots": 2, "lasts": 50.0}, [0.0, 0.0, 50.0]),
        (2, {"ends": [60.0], "slots": None, "lasts": None}, [60.0, None]),
        (2, {"ends": [60.0, 30.0], "slots": 2, "lasts": None}, [30.0, 60.0]),
        (2, {"ends": [60.0, None], "slots": 2, "lasts": None}, [60.0, None]),
        (4, {"ends": [60.0, 30.0], "slots": 2, "lasts": 40.0}, [30.0, 60.0, 70.0, 100.0]),
        (2, {"ends": [60.0], "slots": 2, "lasts": None}, [0.0, 60.0]),
    ],
)
def test_a_job_starts_when_as_many_have_ended_as_are_before_it(count, known, expected):
    assert starts(count, **known) == expected


@given(
    st.lists(st.none() | st.floats(0, 1e4), max_size=8),
    st.none() | st.integers(1, 8),
    st.none() | st.floats(1, 1e4),
)
def test_nobody_starts_before_those_who_come_first(ends, slots, lasts):
    found = starts(12, ends=ends, slots=slots, lasts=lasts)
    known = [start for start in found if start is not None]
    assert known == sorted(known)
    assert found[: len(known)] == known
