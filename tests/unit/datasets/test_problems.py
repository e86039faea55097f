"""What can be wrong with a row, and what we say about it."""

import json

import pytest

from adapters.datasets.rows import MAX_ROW_BYTES
from tests.unit.datasets.judging import jsonl

GOOD = {"input": "Hi", "target": "Hello"}
USER = {"role": "user", "content": "Hi"}
REPLY = {"role": "assistant", "content": "Hello"}


def messages(*turns):
    return {"messages": list(turns)}


def turn(**fields):
    return messages(USER, REPLY, fields)


@pytest.mark.parametrize(
    ("row", "code", "field", "hint"),
    [
        ("Hi", "not_an_object", None, "a string"),
        (7, "not_an_object", None, "a number"),
        (True, "not_an_object", None, "a boolean"),
        (None, "not_an_object", None, "null"),
        ({}, "unknown_format", None, "without fields"),
        ({"a": 1}, "unknown_format", None, "input+target"),
        ({"inputt": "a", "target": "b"}, "unknown_format", None, "rename 'inputt' to 'input'"),
        ({"massages": []}, "unknown_format", None, "rename 'massages' to 'messages'"),
        ({"Messages": []}, "unknown_format", None, "rename 'Messages' to 'messages'"),
        ({"target": "b"}, "unknown_format", None, "add 'input'"),
        ({str(n): n for n in range(20)}, "unknown_format", None, "12 more"),
        ({"input": "a", "target": None}, "wrong_type", "target", "null"),
        ({"input": ["a"], "target": "b"}, "wrong_type", "input", "an array"),
        ({"input": "a", "target": {}}, "wrong_type", "target", "an object"),
        ({**GOOD, "system": 1}, "wrong_type", "system", "a number"),
        ({"instruction": "a", "input": 1, "output": "b"}, "wrong_type", "input", "a number"),
        ({"prompt": {}, "completion": "b"}, "wrong_type", "prompt", "a string or an array"),
        ({"messages": {}}, "wrong_type", "messages", "an array of messages"),
        ({"messages": ["Hi"]}, "wrong_type", "messages[0]", "a string"),
        (
            messages(USER, {"role": "assistant", "content": None}),
            "wrong_type",
            "messages[1].content",
            "null",
        ),
        (
            messages(USER, {"role": "assistant", "content": [1]}),
            "wrong_type",
            "messages[1].content[0]",
            "text",
        ),
        ({"input": " \n", "target": "b"}, "empty", "input", "fill it in"),
        ({"text": ""}, "empty", "text", "remove the row"),
        ({"messages": []}, "empty", "messages", "empty array"),
        (messages({"role": "system", "content": ""}), "empty", "messages[0].content", "empty"),
        (messages({"role": "user", "content": []}), "empty", "messages[0].content", "empty"),
        (
            turn(role="bot", content="x"),
            "invalid_role",
            "messages[2].role",
            "'developer', 'user' and",
        ),
        (
            turn(role="User", content="x"),
            "invalid_role",
            "messages[2].role",
            "did you mean 'user'?",
        ),
        (turn(roel="user", content="x"), "missing_field", "messages[2].role", "rename 'roel'"),
        (turn(role="user"), "missing_field", "messages[2].content", "found 'role', add 'content'"),
        (messages({}), "missing_field", "messages[0].role", "add 'role'"),
        (messages(REPLY, USER, REPLY), "invalid_role", "messages[0].role", "user before it"),
        (messages(USER), "no_assistant_message", "messages", "add the reply"),
        (messages(USER, {**REPLY, "weight": 0}), "no_assistant_message", "messages", "weight 1"),
        (messages(USER, REPLY, USER), "last_message_not_assistant", "messages[2].role", "end with"),
        (turn(**REPLY, weight=2), "invalid_weight", "messages[2].weight", "is 2;"),
        (turn(**REPLY, weight=-0.5), "invalid_weight", "messages[2].weight", "is -0.5;"),
        (turn(**REPLY, weight=1.01), "invalid_weight", "messages[2].weight", "from 0"),
        (turn(**REPLY, weight="0.5"), "invalid_weight", "messages[2].weight", "a string"),
        (turn(**REPLY, weight=True), "invalid_weight", "messages[2].weight", "a boolean"),
        (turn(**REPLY, weight=[]), "invalid_weight", "messages[2].weight", "an array"),
        (turn(**USER, weight=0), "invalid_weight", "messages[2].weight", "remove it"),
        (turn(role="tool", content="x"), "tools_not_supported", "messages[2].role", "'tool'"),
        (
            turn(role="assistant", content=None, tool_calls=[{}]),
            "tools_not_supported",
            "messages[2].tool_calls",
            "tools",
        ),
        (
            turn(role="assistant", content=None, function_call={"name": "f"}),
            "tools_not_supported",
            "messages[2].function_call",
            "tools",
        ),
        (
            {**messages(USER, REPLY), "tools": [{}]},
            "tools_not_supported",
            "tools",
            "cannot be trained",
        ),
        (
            messages({"role": "user", "content": [{"type": "image_url", "image_url": {}}]}),
            "unsupported_content",
            "messages[0].content[0].type",
            "'image_url'",
        ),
        (
            {"conversations": [{"role": "user", "content": "x"}]},
            "missing_field",
            "conversations[0].from",
            "found 'role'",
        ),
        (
            {"conversations": [{"from": "observation", "value": "x"}]},
            "tools_not_supported",
            "conversations[0].from",
            "tools",
        ),
        (
            {"prompt": [{"role": "system", "content": "x"}], "completion": "b"},
            "invalid_role",
            "completion",
            "user before it",
        ),
        (
            {"prompt": "a", "completion": [USER]},
            "invalid_role",
            "completion[0].role",
            "move it to the prompt",
        ),
        ({"input": "\ud800", "target": "b"}, "invalid_utf8", "input", "half of a character"),
    ],
)
def test_a_bad_row_is_named_and_explained(judge, row, code, field, hint):
    problem = judge.row_problem(row)
    assert (problem.line, problem.code, problem.field) == (1, code, field)
    assert hint in problem.message
    assert problem.message.startswith("Line 1: ")
    assert problem.message.endswith((".", "?"))
    assert problem.message.isprintable()


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        (b'{"input": "a" "target": "b"}', '“"target": "b"}”'),
        (b'{"input": "a",', "at its end"),
        (b"input,target", "put one complete JSON object on each line"),
        (b'{"input": NaN}', "NaN is not a JSON number"),
        (b'{"input": "a", "input": "b", "target": "c"}', "'input' appears twice"),
        (b"[" * 5 + b'{"a"', "Row 1"),
        (b'{"a":' * 100_000, "nested too deeply"),
        (b"1" * 5000, "a number has thousands of digits"),
    ],
)
def test_what_is_no_json_is_said_to_be_none(judge, line, hint):
    problem = judge.problem(line + b"\n")
    assert (problem.line, problem.code) == (1, "invalid_json")
    assert hint in problem.message


def test_a_line_that_is_not_utf8_does_not_spoil_the_others(judge):
    problem = judge.problem(
        jsonl(GOOD) + '{"input": "é", "target": "b"}\n'.encode("latin-1") + jsonl(GOOD)
    )
    assert (problem.line, problem.code) == (2, "invalid_utf8")
    assert "byte 12 of the row" in problem.message


@pytest.mark.parametrize("encoding", ["utf-16"])
def test_a_utf16_file_is_one_problem(judge, encoding):
    problem = judge.problem(jsonl(GOOD, GOOD).decode().encode(encoding))
    assert (problem.line, problem.code) == (0, "invalid_utf8")
    assert "UTF-16" in problem.message


@pytest.mark.parametrize(
    "content", [b"", b" \r\n\n", b"\xef\xbb\xbf", b"[]", b" [ ] \n", b"\n" * 200_000]
)
def test_a_file_without_rows_is_one_problem(judge, content):
    problem = judge.problem(content)
    assert (problem.line, problem.field, problem.code) == (0, None, "empty_file")


def test_a_row_of_a_megabyte_is_the_largest(judge):
    row = {"text": ""}
    row["text"] = "x" * (MAX_ROW_BYTES - len(json.dumps(row)))
    assert len(judge.examples(jsonl(row, row))) == 2
    row["text"] += "x"
    problem = judge.problem(jsonl(row, {"text": "x"}))
    assert (problem.line, problem.code) == (1, "row_too_large")
    row["text"] *= 3
    problem = judge.problem(jsonl(row, {"text": "x"}))
    assert (problem.line, problem.code) == (1, "row_too_large")


def test_two_formats_in_one_file_are_both_named(judge):
    problem = judge.problem(jsonl(GOOD, {"text": "x"}, GOOD))
    assert (problem.line, problem.code) == (2, "mixed_format")
    assert "'text'" in problem.message
    assert "line 1 is 'input_target'" in problem.message


def test_a_misspelt_key_further_down_is_a_missing_field(judge):
    problem = judge.problem(jsonl(GOOD, {"inputt": "Hi", "target": "Hello"}))
    assert (problem.line, problem.field, problem.code) == (2, "input", "missing_field")
    assert "rename 'inputt' to 'input'" in problem.message


def test_a_long_and_ugly_name_is_quoted_in_short(judge):
    problem = judge.row_problem({"\x00\ud800" + "x" * 100_000: 1})
    assert len(problem.message) < 300
    assert problem.message.isprintable()
