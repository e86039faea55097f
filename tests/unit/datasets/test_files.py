"""What a file may look like, whatever its rows say."""

import gzip
import json

import pytest

from adapters.datasets import streams, write_rows
from adapters.datasets.rows import MAX_ROW_BYTES
from adapters.errors import InvalidDataset
from tests.unit.datasets.judging import jsonl, packed

GOOD = {"input": "Grüß 你好 🙂", "target": "Hello"}
BOM = b"\xef\xbb\xbf"
ARRAY = json.dumps([GOOD, GOOD]).encode()


@pytest.mark.parametrize("pack", [bytes, packed])
@pytest.mark.parametrize(
    "content",
    [
        jsonl(GOOD, GOOD),
        jsonl(GOOD, GOOD).rstrip(),
        BOM + jsonl(GOOD, GOOD),
        jsonl(GOOD, GOOD).replace(b"\n", b"\r\n"),
        b"\n \r\n" + jsonl(GOOD) + b"\n\t\n" + jsonl(GOOD),
        ARRAY,
        BOM + b"\n " + ARRAY + b" \n",
        json.dumps([GOOD, GOOD], indent=2, ensure_ascii=False).encode(),
        b" " * 100_000 + ARRAY,
    ],
)
def test_rows_are_read_in_whatever_wrapping(judge, content, pack):
    examples = judge.examples(pack(content))
    assert [one.messages[0].content for one in examples] == [GOOD["input"]] * 2


def test_lines_are_counted_with_the_blank_ones(judge):
    blank = b"\n" * 100_000
    examples = judge.examples(blank + jsonl(GOOD) + b"\r\n" + jsonl(GOOD))
    assert [one.line for one in examples] == [100_001, 100_003]


def test_rows_of_an_array_are_counted_from_1(judge):
    content = json.dumps([GOOD, {"input": "Hi"}, GOOD], indent=1).encode()
    problem = judge.problem(content)
    assert (problem.line, problem.field, problem.code) == (2, "target", "missing_field")
    assert problem.message.startswith("Row 2: ")


@pytest.mark.parametrize(
    ("content", "line", "hint"),
    [
        (b"[", 1, "at its end"),
        (b"[" + jsonl(GOOD) + jsonl(GOOD) + b"]", 1, "',' or ']' should follow this row, not “{”"),
        (b"[" + jsonl(GOOD), 1, "the end of the file"),
        (b"[" + jsonl(GOOD) + b",]", 2, "“]”"),
        (ARRAY + b",", 3, "“,” follows the closing ']'"),
    ],
)
def test_a_broken_array_is_read_up_to_where_it_breaks(judge, content, line, hint):
    problem = judge.problem(content)
    assert (problem.line, problem.code) == (line, "invalid_json")
    assert hint in problem.message


def test_a_row_of_an_array_that_is_not_utf8_does_not_spoil_the_others(judge):
    problem = judge.problem(b'[{"text": "a"}, {"text": "\xe9"}, {"text": "b"}]')
    assert (problem.line, problem.code) == (2, "invalid_utf8")


def test_an_array_is_read_across_its_windows(judge):
    rows = [{"text": "🙂" * 1000 + str(number)} for number in range(3000)]
    examples = judge.examples(json.dumps(rows, ensure_ascii=False).encode())
    assert [one.text for one in examples] == [row["text"] for row in rows]


@pytest.mark.parametrize("more", [1, 6 * MAX_ROW_BYTES])
def test_a_row_of_an_array_can_be_too_large(judge, more):
    rows = [{"text": "a"}, {"text": "x" * (MAX_ROW_BYTES + more)}]
    problem = judge.problem(json.dumps(rows).encode())
    assert (problem.line, problem.code) == (2, "row_too_large")


def test_blanks_in_an_array_are_no_row(judge):
    gap = b" \n" * MAX_ROW_BYTES
    content = b"[" + gap + jsonl(GOOD) + gap + b"," + gap + jsonl(GOOD) + gap + b"]" + gap
    assert len(judge.examples(content)) == 2


@pytest.mark.parametrize("cut", [20, -1, -9])
def test_damaged_gzip_is_one_problem(judge, cut):
    problem = judge.problem(packed(jsonl(*[{"text": str(n)} for n in range(100)]))[:cut])
    assert (problem.line, problem.code) == (0, "invalid_gzip")


@pytest.mark.parametrize("row", [b"{}", b"[]"])
def test_garbage_behind_the_gzip_magic_is_one_problem(judge, row):
    assert judge.problem(b"\x1f\x8b" + row * 20).code == "invalid_gzip"


def test_a_gzip_bomb_is_not_unpacked_to_its_end(judge, monkeypatch):
    monkeypatch.setattr(streams, "MAX_UNPACKED_BYTES", 100_000)
    problem = judge.problem(gzip.compress(b"\n" * 1_000_000))
    assert (problem.line, problem.code) == (0, "file_too_large")


def test_inline_rows_are_written_and_read_back(judge):
    write_rows([GOOD, {"input": "a\nb\u2028c", "target": "\x00"}], judge.path)
    examples = judge.examples(judge.path.read_bytes())
    assert [one.messages[0].content for one in examples] == [GOOD["input"], "a\nb\u2028c"]


def test_half_a_character_inline_is_found_by_the_check(judge):
    write_rows([GOOD, {"input": "\ud800", "target": "b"}], judge.path)
    problem = judge.problem(judge.path.read_bytes())
    assert (problem.line, problem.field, problem.code) == (2, "input", "invalid_utf8")


def test_infinity_inline_is_found_by_the_check(judge):
    write_rows([GOOD, {"input": float("inf"), "target": "b"}], judge.path)
    assert judge.problem(judge.path.read_bytes()).code == "invalid_json"


def deep():
    row = {}
    for _ in range(100_000):
        row = {"a": row}
    return row


@pytest.mark.parametrize(
    ("row", "code"), [([GOOD], "not_an_object"), ("Hi", "not_an_object"), (deep(), "invalid_json")]
)
def test_inline_rows_that_cannot_be_lines_are_refused(tmp_path, row, code):
    with pytest.raises(InvalidDataset) as raised:
        write_rows([GOOD, row], tmp_path / "inline.jsonl")
    assert raised.value.param == "training_file"
    assert raised.value.details[0]["line"] == 2
    assert raised.value.details[0]["code"] == code
