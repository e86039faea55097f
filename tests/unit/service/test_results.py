from collections.abc import Iterator
from typing import Any

from hypothesis import given, settings, strategies as st

from adapters.records import Event, EventKind
from service.results import Point, points, result_csv, thin

QUICK = settings(deadline=None, database=None)


def log(*entries: dict[str, Any]) -> Iterator[Event]:
    for seq, data in enumerate(entries, 1):
        kind = EventKind.STATUS if "resumed_from_step" in data else EventKind.METRICS
        yield Event(
            job_id="ftjob-1", seq=seq, kind=kind, level="info", message="", data=data, created_at=0
        )


def test_a_step_and_its_evaluation_are_one_point() -> None:
    found = points(
        log(
            {"resumed_from_step": 0},
            {"step": 1, "train_loss": 3.0, "learning_rate": 0.1},
            {"step": 2, "train_loss": 2.0},
            {"step": 2, "valid_loss": 2.5, "best": True},
        )
    )
    assert found == [
        Point(1, train_loss=3.0, learning_rate=0.1),
        Point(2, train_loss=2.0, valid_loss=2.5),
    ]


def test_what_was_lost_behind_a_checkpoint_is_not_shown() -> None:
    lost = [{"step": step, "train_loss": 9.0} for step in (2, 4, 6)]
    found = points(log(*lost, {"resumed_from_step": 4}, {"step": 5, "train_loss": 1.0}))
    assert [(point.step, point.train_loss) for point in found] == [(2, 9.0), (4, 9.0), (5, 1.0)]
    afresh = points(log(*lost, {"resumed_from_step": None}, {"step": 1, "train_loss": 1.0}))
    assert [point.step for point in afresh] == [1]


def test_the_file_has_openais_header_and_leaves_unknown_cells_empty() -> None:
    measured = {"train_mean_token_accuracy": 0.75, "valid_mean_token_accuracy": 0.5}
    text = result_csv(
        [Point(1, train_loss=0.5), Point(2, train_loss=0.25, valid_loss=1.0, **measured)]
    )
    assert text.decode().splitlines() == [
        "step,train_loss,train_accuracy,valid_loss,valid_mean_token_accuracy",
        "1,0.5,,,",
        "2,0.25,0.75,1.0,0.5",
    ]


@QUICK
@given(st.integers(0, 60), st.integers(1, 70))
def test_a_thinned_series_keeps_its_last_step_its_mean_and_every_bound(
    size: int, most: int
) -> None:
    series = [Point(step, train_loss=float(step)) for step in range(1, size + 1)]
    thinned = thin(series, most)
    assert len(thinned) <= most
    assert [point.step for point in thinned] == sorted({point.step for point in thinned})
    if size:
        assert thinned[-1].step == size
        assert (size <= most) == (thinned == series)
        assert (
            1
            <= min(p.train_loss or 0 for p in thinned)
            <= max(p.train_loss or 0 for p in thinned)
            <= size
        )


def test_an_evaluation_is_not_averaged() -> None:
    series = [
        Point(1, train_loss=4.0, train_mean_token_accuracy=0.25, valid_loss=8.0),
        Point(2, train_loss=2.0, train_mean_token_accuracy=0.75),
        Point(3, valid_loss=6.0),
    ]
    assert thin(series, 1) == [
        Point(3, train_loss=3.0, train_mean_token_accuracy=0.5, valid_loss=6.0)
    ]
