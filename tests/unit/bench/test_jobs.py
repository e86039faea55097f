"""The jobs of the end-to-end comparison, and what is made of both sides' results."""

import json
from dataclasses import replace

import pytest

from bench.jobs import (
    BATCH,
    COMMANDS,
    EPOCHS,
    ROWS,
    SINGLY,
    STEPS,
    TOGETHER,
    Done,
    Turn,
    check_same_jobs,
    rows_of,
    submission,
)
from bench.rivals.command import NAME, arguments, write_dataset

DONE = Done(10.0, 8.0, (2.0, 1.0), (3.0, 2.0), 700)
#: Its template ends each of the twenty rows with a line break.
PEER = replace(DONE, tokens=720)


def test_a_submission_is_the_same_for_the_same_seed_whatever_its_name():
    assert submission("a", 1).rows == submission("b", 1).rows
    assert submission("a", 1).rows != submission("a", 2).rows


def test_a_submission_has_distinct_rows_for_twenty_steps_each_with_its_own_system_message():
    rows = submission("a", 1).rows
    assert len({json.dumps(row) for row in rows}) == len(rows) == ROWS
    assert STEPS == ROWS * EPOCHS / BATCH == 20
    for row in rows:
        assert [message["role"] for message in row["messages"]] == ["system", "user", "assistant"]


def test_what_is_not_training_is_the_rest():
    assert DONE.besides == 2.0


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"tokens": 701}, "720 tokens of the peer, not 721"),
        ({"losses": (1.0, 2.0)}, "went from 1.0 to 2.0"),
        ({"losses": ()}, "no loss"),
        ({"grad_norms": (0.0, 1.0)}, "nothing"),
        ({"losses": (20.0, 10.0)}, "10.00 times"),
    ],
)
def test_other_jobs_are_no_comparison(changes, complaint):
    check_same_jobs([DONE, DONE], [PEER])
    with pytest.raises(AssertionError, match=complaint):
        check_same_jobs([replace(DONE, **changes)], [PEER])


def test_a_peer_that_learnt_nothing_is_found_out_too():
    with pytest.raises(AssertionError, match="nothing"):
        check_same_jobs([DONE], [replace(PEER, grad_norms=(0.0,))])


def test_the_rows_say_how_often_the_peer_ran():
    single = Turn(9.0, [replace(DONE, seconds=8.25), replace(DONE, seconds=8.5), DONE])
    first = {TOGETHER: Turn(20.0, [DONE] * 8), SINGLY: single, COMMANDS: Turn(200.0, [DONE] * 8)}
    later = first | {COMMANDS: Turn(240.0, [DONE] * 2)}
    whole, besides = rows_of([first, later])
    assert whole.ours == [20.0, 20.0]
    assert whole.peer == [200.0, 240.0]
    assert whole.ratio.median == 11
    assert "8, 2" in whole.note
    assert besides.ours == [0.5, 0.5]
    assert besides.peer == [2.0, 2.0]


def test_the_peer_reads_the_same_messages_and_trains_as_many_steps(tmp_path):
    submitted = submission("a", 1)
    write_dataset(tmp_path, submitted)
    info = json.loads((tmp_path / "dataset_info.json").read_text())[NAME]
    lines = (tmp_path / info["file_name"]).read_text().splitlines()
    assert [json.loads(line) for line in lines] == list(submitted.rows)
    told = arguments(tmp_path, tmp_path, tmp_path / "out")
    assert told["dataset"] == NAME
    assert told["per_device_train_batch_size"] == BATCH
    assert told["num_train_epochs"] == EPOCHS
