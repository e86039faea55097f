"""What each shape of row means."""

from dataclasses import replace

import pytest

from adapters.datasets import Conversation, Message, Passage, check_dataset, read_examples

SYSTEM = Message(role="system", content="Be brief.")
ASK = Message(role="user", content="Hi")
REPLY = Message(role="assistant", content="Hello", weight=1.0)
CONTEXT = Message(role="assistant", content="Hello", weight=0.0)


def talk(*messages):
    return Conversation(line=1, messages=messages)


def as_json(message, **more):
    return {"role": message.role, "content": message.content, **more}


def test_the_two_seed_lines_are_a_training_file(tmp_path):
    path = tmp_path / "seed.jsonl"
    path.write_text('{"input": "...", "target": "..."}\n{"input": "...", "target": "..."}\n')
    report = check_dataset(path)
    assert (report.format, report.rows, report.duplicates, report.valid) == (
        "input_target",
        2,
        1,
        True,
    )
    ask, reply = (
        Message(role="user", content="..."),
        Message(role="assistant", content="...", weight=1.0),
    )
    assert list(read_examples(path)) == [
        Conversation(line=1, messages=(ask, reply)),
        Conversation(line=2, messages=(ask, reply)),
    ]


@pytest.mark.parametrize(
    ("row", "messages"),
    [
        ({"input": "Hi", "target": "Hello"}, (ASK, REPLY)),
        ({"input": "Hi", "target": "Hello", "system": "Be brief."}, (SYSTEM, ASK, REPLY)),
        ({"input": "Hi", "target": "Hello", "system": " "}, (ASK, REPLY)),
        ({"input": "Hi", "target": "Hello", "system": None}, (ASK, REPLY)),
        ({"messages": [as_json(ASK), as_json(REPLY)]}, (ASK, REPLY)),
        (
            {
                "messages": [
                    {"role": "developer", "content": "Be brief."},
                    as_json(ASK),
                    as_json(REPLY),
                ]
            },
            (SYSTEM, ASK, REPLY),
        ),
        ({"messages": [as_json(ASK), as_json(REPLY)], "system": "Be brief."}, (SYSTEM, ASK, REPLY)),
        ({"prompt": "Hi", "completion": "Hello"}, (ASK, REPLY)),
        ({"prompt": "Hi", "completion": "Hello", "system": "Be brief."}, (SYSTEM, ASK, REPLY)),
        ({"prompt": [as_json(SYSTEM), as_json(ASK)], "completion": "Hello"}, (SYSTEM, ASK, REPLY)),
        ({"prompt": [as_json(ASK)], "completion": [as_json(REPLY)]}, (ASK, REPLY)),
        ({"instruction": "Hi", "output": "Hello"}, (ASK, REPLY)),
        ({"instruction": "Hi", "input": "", "output": "Hello"}, (ASK, REPLY)),
        (
            {"instruction": "Hi", "output": "Hello", "system": "Be brief."},
            (SYSTEM, ASK, REPLY),
        ),
        (
            {"instruction": "Hi", "input": "there", "output": "Hello"},
            (Message(role="user", content="Hi\nthere"), REPLY),
        ),
    ],
)
def test_a_row_becomes_a_conversation(judge, row, messages):
    assert judge.example(row) == talk(*messages)


@pytest.mark.parametrize("user", ["human", "user"])
@pytest.mark.parametrize("assistant", ["gpt", "chatgpt", "assistant"])
def test_sharegpt_has_its_own_names_for_the_roles(judge, user, assistant):
    row = {
        "conversations": [
            {"from": "system", "value": "Be brief."},
            {"from": user, "value": "Hi"},
            {"from": assistant, "value": "Hello"},
        ]
    }
    assert judge.example(row) == talk(SYSTEM, ASK, REPLY)


def test_text_becomes_a_passage(judge):
    assert judge.example({"text": " Once upon a time "}) == Passage(
        line=1, text=" Once upon a time "
    )


def test_content_is_kept_as_it_is(judge):
    example = judge.example({"prompt": "Hi ", "completion": "\n Hello"})
    assert [one.content for one in example.messages] == ["Hi ", "\n Hello"]


def test_text_parts_are_joined_by_newlines_as_vllm_does(judge):
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    example = judge.example({"messages": [{"role": "user", "content": parts}, as_json(REPLY)]})
    assert example.messages[0].content == "one\ntwo"


def test_weight_0_takes_a_reply_out_of_the_loss(judge):
    row = {
        "messages": [
            as_json(ASK),
            as_json(CONTEXT, weight=0),
            as_json(ASK),
            as_json(REPLY, weight=1),
        ]
    }
    assert judge.example(row) == talk(ASK, CONTEXT, ASK, REPLY)


@pytest.mark.parametrize("weight", [0.25, 1, 1.0, 1e-9])
def test_a_reply_counts_as_much_as_its_weight_says(judge, weight):
    example = judge.example({"messages": [as_json(ASK), as_json(REPLY, weight=weight)]})
    assert example == talk(ASK, replace(REPLY, weight=weight))
    assert example.messages[1].trained


def test_every_reply_is_trained_by_default(judge):
    row = {"messages": [as_json(ASK), as_json(REPLY), as_json(ASK), as_json(REPLY, weight=None)]}
    assert judge.example(row) == talk(ASK, REPLY, ASK, REPLY)


def test_replies_in_a_prompt_are_context(judge):
    row = {"prompt": [as_json(ASK), as_json(REPLY), as_json(ASK)], "completion": "Hello"}
    assert judge.example(row) == talk(ASK, CONTEXT, ASK, REPLY)


def test_two_users_in_a_row_are_fine(judge):
    assert judge.example({"messages": [as_json(ASK), as_json(ASK), as_json(REPLY)]}) == talk(
        ASK, ASK, REPLY
    )


def test_absent_tools_may_be_spelt_out(judge):
    messages = [as_json(ASK, name=None), as_json(REPLY, tool_calls=[], function_call=None)]
    assert judge.example({"messages": messages, "tools": []}) == talk(ASK, REPLY)


def test_null_columns_do_not_decide_the_format(judge):
    rows = {"messages": None, "input": "Hi", "target": "Hello"}
    assert judge.example(rows) == talk(ASK, REPLY)


def test_turns_win_over_a_rendered_text(judge):
    row = {"text": "<|user|>Hi", "messages": [as_json(ASK), as_json(REPLY)], "prompt": "Hi"}
    assert judge.example(row) == talk(ASK, REPLY)
    assert check_dataset(judge.path).ignored_fields == ("prompt", "text")
