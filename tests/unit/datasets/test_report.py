"""What the report counts, and what a client hears of it."""

import hashlib
import pickle

import pytest

from adapters.datasets import check_dataset, read_examples, require_valid
from adapters.errors import InvalidDataset
from tests.unit.datasets.judging import jsonl

GOOD = {"input": "Hi", "target": "Hello"}


def test_a_report_says_what_was_checked(judge):
    content = jsonl({**GOOD, "id": 7, "category": "QA"}, GOOD)
    report = judge.report(content)
    assert report.digest == hashlib.sha256(content).hexdigest()
    assert report.bytes == len(content)
    assert report.format == "input_target"
    assert report.rows == 2
    assert report.ignored_fields == ("category", "id")
    require_valid(report)


def test_duplicates_are_told_up_to_white_space(judge):
    spaced = {"target": " Hello\n", "input": "Hi"}
    accent = [{"input": "e\u0301", "target": "x"}, {"input": "\u00e9", "target": "x"}]
    report = judge.report(jsonl(GOOD, spaced, {**GOOD, "input": "hi"}, *accent, GOOD))
    assert (report.rows, report.duplicates, report.valid) == (6, 3, True)


def test_rows_that_differ_in_weights_or_roles_are_no_duplicates(judge):
    def row(weight):
        user, reply = {"role": "user", "content": "a"}, {"role": "assistant", "content": "a"}
        return {"messages": [user, {**reply, "weight": weight}, user, reply]}

    assert judge.report(jsonl(row(0), row(0.5), row(1))).duplicates == 0


def test_ignored_fields_of_messages_are_told(judge):
    turns = [{"role": "user", "content": "a", "name": "Ann"}, {"role": "assistant", "content": "b"}]
    report = judge.report(jsonl({"messages": turns, "parallel_tool_calls": True}))
    assert report.ignored_fields == ("messages[].name", "parallel_tool_calls")


def test_ignored_fields_are_bounded_and_printable(judge):
    report = judge.report(jsonl(*[{**GOOD, f"\ud800{n}" + "x" * 99: n} for n in range(100)]))
    assert len(report.ignored_fields) == 65
    assert "…" in report.ignored_fields
    assert all(name.isprintable() and len(name) < 50 for name in report.ignored_fields)


def test_one_problem_a_row_and_the_first_few_are_listed(judge):
    bad = {"input": "", "target": ""}
    report = judge.report(jsonl(GOOD, *[bad] * 5, GOOD), max_problems=2)
    assert [problem.line for problem in report.problems] == [2, 3]
    assert (report.rows, report.total_problems, report.valid) == (7, 5, False)


def test_an_invalid_report_becomes_an_error_with_details(judge):
    report = judge.report(jsonl(GOOD, {"input": "Hi"}, 7))
    with pytest.raises(InvalidDataset) as raised:
        require_valid(report)
    error = pickle.loads(pickle.dumps(raised.value))
    assert error.param == "training_file"
    assert error.message.startswith("The training file has 2 problems. Line 2: target is missing")
    assert error.details[0] == {
        "line": 2,
        "field": "target",
        "code": "missing_field",
        "message": report.problems[0].message,
    }
    assert [detail["line"] for detail in error.details] == [2, 3]


def test_an_invalid_report_may_list_no_problem_at_all(judge):
    report = judge.report(jsonl(7), max_problems=0)
    with pytest.raises(InvalidDataset, match=r"^The training file has 1 problem\.$"):
        require_valid(report)


def test_examples_come_until_the_first_bad_row(judge):
    judge.report(jsonl(GOOD, 7, GOOD))
    examples = read_examples(judge.path)
    assert next(examples).line == 1
    with pytest.raises(InvalidDataset, match="Line 2: this row is a number"):
        next(examples)


def test_the_first_known_shape_decides_the_format(judge):
    report = judge.report(jsonl({"a": 1}, GOOD, {"text": "x"}))
    assert report.format == "input_target"
    assert [problem.code for problem in report.problems] == ["unknown_format", "mixed_format"]


def test_a_file_without_a_known_shape_has_no_format(judge):
    assert judge.report(jsonl({"a": 1})).format is None


def test_a_missing_file_is_no_bad_content(tmp_path):
    with pytest.raises(FileNotFoundError):
        check_dataset(tmp_path / "absent.jsonl")
