"""Counting and showing, with a tokenizer of one token a character."""

import json

import pytest

from adapters.datasets.rendering import Renderer, stop_tokens
from service.tokens.messages import (
    Bar,
    Count,
    Refused,
    Show,
    decode_answer,
    decode_question,
    encode_answer,
    encode_question,
)
from service.tokens.reading import count, histogram, show, stretches


class Letters:
    """Speaks in code points; "." ends a turn."""

    chat_template = "there is one"
    eos_token_id = ord(".")

    def __call__(self, text, **_):
        return {"input_ids": [ord(letter) for letter in text]}

    def decode(self, ids):
        return "".join(chr(one) for one in ids)

    def apply_chat_template(self, messages, *, tokenize, add_generation_prompt):
        text = "".join(f"{one['role'][0]}{one['content']}." for one in messages)
        return text + "a" * add_generation_prompt


RENDERER = Renderer(Letters(), frozenset({ord(".")}))


@pytest.fixture
def rows(tmp_path):
    def write(*rows):
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path

    return write


def asked(data, **changes):
    limits = {"max_seq_length": 100, "most_rows": 100, "most_seconds": 60.0}
    return Count(directory=data.parent, data=data, **(limits | changes))


def test_a_comparison_is_one_sample_with_the_tokens_of_both_sides(rows):
    pair = {"prompt": "q", "chosen": "yes", "rejected": "no"}
    found = count(asked(rows(pair, pair)), RENDERER)
    # "uq.ayes." and "uq.ano."
    assert (found.rows, found.samples, found.tokens, found.trained_tokens) == (1, 1, 15, 7)
    assert found.longest == 8


def test_a_row_is_left_out_whole_where_one_side_is_too_long(rows):
    pair = {"prompt": "q", "chosen": "yes", "rejected": "no"}
    found = count(asked(rows(pair), max_seq_length=7), RENDERER)
    assert (found.too_long, found.samples, found.tokens, found.longest) == (1, 0, 0, 8)


def test_time_is_up_after_the_row_in_hand(rows):
    data = rows(*({"input": str(at), "target": "b"} for at in range(10)))
    ticks = iter(range(100))
    found = count(asked(data, most_seconds=3.0), RENDERER, clock=lambda: next(ticks))
    assert (found.rows, found.complete) == (4, False)


def test_a_file_that_ends_at_the_limit_is_complete(rows):
    data = rows(*({"input": str(at), "target": "b"} for at in range(3)))
    assert count(asked(data, most_rows=3), RENDERER).complete
    assert not count(asked(data, most_rows=2), RENDERER).complete


def test_both_sides_of_a_comparison_are_shown(rows):
    data = rows({"prompt": "q", "chosen": "yes", "rejected": "no"})
    question = Show(directory=data.parent, data=data, max_seq_length=7, rows=5, most_tokens=100)
    chosen, rejected = show(question, RENDERER, Letters()).sequences
    assert (chosen.side, rejected.side) == ("chosen", "rejected")
    assert (chosen.too_long, rejected.too_long) == (True, False)
    assert [span.text for span in (*chosen.spans, *rejected.spans)] == ["yes.", "no."]
    assert "".join(chosen.tokens) == "uq.ayes."


def test_weights_become_stretches():
    assert list(stretches([0, 1, 1, 0.5, 0.5, 0, 1])) == [(1, 3, 1), (3, 5, 0.5), (6, 7, 1)]
    assert list(stretches([])) == []


@pytest.mark.parametrize(
    ("lengths", "bars"),
    [
        ([], ()),
        ([1, 16], (Bar(up_to=16, rows=2),)),
        ([17, 32, 33], (Bar(up_to=32, rows=2), Bar(up_to=64, rows=1))),
        ([5, 100], (Bar(up_to=16, rows=1), Bar(up_to=32, rows=0), Bar(up_to=64, rows=0), Bar(up_to=128, rows=1))),
    ],
)  # fmt: skip
def test_a_histogram_has_bars_that_double(lengths, bars):
    assert histogram(lengths) == bars


@pytest.mark.parametrize(
    ("configured", "found"), [(None, {46}), (7, {7, 46}), ([7, 8], {7, 8, 46}), ([46], {46})]
)
def test_a_turn_ends_where_the_engine_stops(configured, found):
    assert stop_tokens(configured, Letters()) == found


def test_questions_and_answers_survive_the_pipe(rows):
    data = rows({"input": "a", "target": "b"})
    question = asked(data)
    assert decode_question(encode_question(question)) == question
    for answer in (count(question, RENDERER), Refused(message="no\nway", details=[{"line": 3}])):
        line = encode_answer(answer)
        assert (line.count(b"\n"), decode_answer(line)) == (1, answer)
