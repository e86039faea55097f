"""Whatever is in the file: the check never raises, and reading agrees with it."""

import gzip
import json

import pytest
from hypothesis import given, settings, strategies as st

from adapters.datasets import (
    Comparison,
    check_dataset,
    read_examples,
    require_valid,
    write_rows,
)
from adapters.errors import InvalidDataset

QUICK = settings(max_examples=60, deadline=None, database=None)

texts = st.text(max_size=5) | st.sampled_from(["user", "assistant", "human", "gpt", "text", " "])
leaves = st.none() | st.booleans() | st.integers() | st.floats() | texts
names = st.sampled_from(
    [
        "role",
        "content",
        "from",
        "value",
        "weight",
        "tool_calls",
        "type",
        "text",
        "input",
        "target",
        "messages",
        "prompt",
        "completion",
        "instruction",
        "output",
        "conversations",
        "chosen",
        "rejected",
        "preferred_output",
        "non_preferred_output",
        "system",
        "tools",
        "inputt",
        "id",
    ]
)
anything = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names | texts, inner, max_size=4),
    max_leaves=8,
)
harmless = st.dictionaries(texts, st.none() | st.integers() | texts, max_size=3)
likely_turn = st.fixed_dictionaries(
    {"role": st.sampled_from(["system", "user", "assistant"]), "content": texts},
    optional={"weight": st.sampled_from([0, 1, 0.5, None, 2]), "name": texts},
)
likely_turns = st.lists(likely_turn, max_size=4)
openings = [
    [{"role": "user", "content": "a"}],
    [{"role": "system", "content": "s"}, {"role": "user", "content": "a"}],
]
likely_side = texts | st.lists(likely_turn, max_size=2)
whole_side = st.builds(list.__add__, st.sampled_from(openings), st.lists(likely_turn, max_size=2))
likely_comparison = st.one_of(
    st.fixed_dictionaries(
        {"prompt": texts | likely_turns, "chosen": likely_side, "rejected": likely_side}
    ),
    st.fixed_dictionaries({"chosen": whole_side, "rejected": whole_side}),
    st.fixed_dictionaries(
        {
            "input": st.fixed_dictionaries({"messages": likely_turns}, optional={"tools": leaves}),
            "preferred_output": likely_turns,
            "non_preferred_output": likely_turns,
        }
    ),
)
said = st.text("ab", min_size=1, max_size=2)
sound_prompt = st.builds(
    lambda opening, more: opening + more,
    st.sampled_from(openings),
    st.sampled_from(
        [[], [{"role": "assistant", "content": "c"}, {"role": "user", "content": "d"}]]
    ),
)
sound_reply = st.builds(lambda text: [{"role": "assistant", "content": text}], said)
sound_comparison = st.one_of(
    st.fixed_dictionaries({"prompt": said | sound_prompt, "chosen": said, "rejected": sound_reply}),
    st.builds(
        lambda prompt, one, other: {"chosen": prompt + one, "rejected": prompt + other},
        sound_prompt,
        sound_reply,
        sound_reply,
    ),
    st.builds(
        lambda prompt, one, other: {
            "input": {"messages": prompt},
            "preferred_output": one,
            "non_preferred_output": other,
        },
        sound_prompt,
        sound_reply,
        sound_reply,
    ),
)
likely_row = st.one_of(
    likely_comparison,
    st.fixed_dictionaries({"input": texts, "target": texts}, optional={"id": anything}),
    st.fixed_dictionaries({"messages": st.lists(likely_turn, max_size=4)}),
    st.fixed_dictionaries({"prompt": st.lists(likely_turn, max_size=2), "completion": texts}),
    st.fixed_dictionaries({"text": texts}, optional={"messages": anything}),
)
rows = st.lists(likely_row | anything, max_size=4) | st.lists(likely_row, min_size=1, max_size=3)
valid_rows = st.lists(
    st.fixed_dictionaries({"input": st.just("a"), "target": st.just("b"), "id": harmless}),
    min_size=1,
)
wrappings = st.sampled_from([bytes, lambda content: b"\xef\xbb\xbf" + content, gzip.compress])


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("property") / "train"


def agree(path):
    report = check_dataset(path)
    assert (report.total_problems == 0) == (not report.problems)
    json.dumps([problem.message for problem in report.problems], ensure_ascii=False).encode()
    if report.valid:
        require_valid(report)
        examples = list(read_examples(path))
        assert len(examples) == report.rows
        assert report.format is not None
        assert report.duplicates < report.rows
        assert report.compares == all(isinstance(one, Comparison) for one in examples)
        return
    with pytest.raises(InvalidDataset) as raised:
        list(read_examples(path))
    assert raised.value.details[0]["message"] == report.problems[0].message
    with pytest.raises(InvalidDataset):
        require_valid(report)


@QUICK
@given(rows=rows, wrap=wrappings)
def test_any_rows_as_lines(path, rows, wrap):
    path.write_bytes(wrap(b"".join(json.dumps(row).encode() + b"\n" for row in rows)))
    agree(path)


@QUICK
@given(rows=rows, wrap=wrappings, indent=st.none() | st.just(1))
def test_any_rows_as_an_array(path, rows, wrap, indent):
    path.write_bytes(wrap(json.dumps(rows, indent=indent).encode()))
    agree(path)


@QUICK
@given(row=likely_comparison | sound_comparison)
def test_the_sides_of_a_comparison_share_the_prompt_and_train_the_reply_alone(path, row):
    path.write_bytes(json.dumps(row).encode())
    agree(path)
    if not check_dataset(path).valid:
        return
    (example,) = read_examples(path)
    sides = [example.chosen.messages, example.rejected.messages]
    context, other = ([one for one in side if not one.trained] for side in sides)
    assert context == other
    for side in sides:
        assert side[: len(context)] == tuple(context)
        replies = side[len(context) :]
        assert replies
        assert {(one.role, one.weight) for one in replies} == {("assistant", 1.0)}
    assert sides[0] != sides[1]


heads = st.sampled_from([b"", b"[", b'{"', b"\x1f\x8b", b'[{"text":"a'])


@QUICK
@given(content=st.binary(max_size=50), head=heads)
def test_any_bytes(path, content, head):
    path.write_bytes(head + content)
    agree(path)


@QUICK
@given(rows=valid_rows, array=st.booleans(), wrap=wrappings)
def test_rows_of_one_shape_are_read_whatever_else_they_hold(path, rows, array, wrap):
    lines = [json.dumps(row) for row in rows]
    path.write_bytes(wrap((f"[{','.join(lines)}]" if array else "\n".join(lines)).encode()))
    agree(path)
    assert check_dataset(path).valid


@QUICK
@given(rows=rows, cut=st.integers(0, 200), wrap=wrappings)
def test_any_file_cut_short(path, rows, cut, wrap):
    path.write_bytes(wrap(json.dumps(rows).encode())[:cut])
    agree(path)


@QUICK
@given(rows=rows)
def test_inline_rows_are_refused_or_readable(path, rows):
    try:
        write_rows(rows, path)
    except InvalidDataset:
        assert not all(isinstance(row, dict) for row in rows)
        return
    agree(path)
    assert check_dataset(path).rows == len(rows)
