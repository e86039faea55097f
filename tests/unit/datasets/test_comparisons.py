"""Rows that compare two replies."""

import pytest

from adapters.datasets import Comparison, Conversation, Message, check_dataset
from tests.unit.datasets.judging import jsonl

SYSTEM = Message(role="system", content="Be brief.")
ASK = Message(role="user", content="Hi")
BEFORE = Message(role="assistant", content="Yes?", weight=0.0)
GOOD = Message(role="assistant", content="Hello", weight=1.0)
BAD = Message(role="assistant", content="Go away", weight=1.0)


def pair(*prompt):
    return Comparison(
        line=1,
        chosen=Conversation(line=1, messages=(*prompt, GOOD)),
        rejected=Conversation(line=1, messages=(*prompt, BAD)),
    )


def as_json(*messages, **more):
    return [{"role": one.role, "content": one.content, **more} for one in messages]


def preference(prompt, chosen="Hello", rejected="Go away", **more):
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected, **more}


def whole(chosen, rejected):
    return {"chosen": as_json(*chosen), "rejected": as_json(*rejected)}


def openai(prompt, chosen=(GOOD,), rejected=(BAD,), **more):
    return {
        "input": {"messages": as_json(*prompt), **more},
        "preferred_output": as_json(*chosen),
        "non_preferred_output": as_json(*rejected),
    }


@pytest.mark.parametrize(
    ("row", "prompt"),
    [
        (preference("Hi"), (ASK,)),
        (preference("Hi", system="Be brief."), (SYSTEM, ASK)),
        (preference("Hi", as_json(GOOD), as_json(BAD)), (ASK,)),
        (preference("Hi", "Hello", as_json(BAD)), (ASK,)),
        (preference(as_json(SYSTEM, ASK)), (SYSTEM, ASK)),
        (preference(as_json(ASK, BEFORE, ASK)), (ASK, BEFORE, ASK)),
        (preference("Hi", as_json(ASK, GOOD), as_json(ASK, BAD)), (ASK,)),
        (preference(as_json(SYSTEM, ASK), as_json(SYSTEM, ASK, GOOD)), (SYSTEM, ASK)),
        (preference(None, as_json(ASK, GOOD), as_json(ASK, BAD)), (ASK,)),
        (whole([ASK, GOOD], [ASK, BAD]), (ASK,)),
        (whole([SYSTEM, ASK, BEFORE, ASK, GOOD], [SYSTEM, ASK, BEFORE, ASK, BAD]), None),
        (openai([ASK]), (ASK,)),
        (openai([SYSTEM, ASK, BEFORE, ASK]), (SYSTEM, ASK, BEFORE, ASK)),
        (openai([ASK], tools=[], parallel_tool_calls=True), (ASK,)),
    ],
)
def test_a_row_becomes_two_conversations_with_one_prompt(judge, row, prompt):
    assert judge.example(row) == pair(*(prompt or (SYSTEM, ASK, BEFORE, ASK)))


def test_only_the_reply_is_trained_whatever_the_weights_of_the_prompt(judge):
    prompt = [*as_json(ASK), *as_json(BEFORE, weight=1), *as_json(ASK)]
    assert judge.example(preference(prompt)) == pair(ASK, BEFORE, ASK)


def test_a_reply_may_have_several_messages(judge):
    example = judge.example(preference("Hi", as_json(GOOD, GOOD), as_json(GOOD, BAD)))
    assert example.chosen.messages == (ASK, GOOD, GOOD)
    assert example.rejected.messages == (ASK, GOOD, BAD)


@pytest.mark.parametrize(
    ("row", "name"), [(preference("Hi"), "preference"), (openai([ASK]), "openai_preference")]
)
def test_the_report_names_the_format_and_that_it_compares(judge, row, name):
    report = judge.report(jsonl(row))
    assert (report.format, report.compares) == (name, True)
    assert not judge.report(jsonl({"input": "Hi", "target": "Hello"})).compares


def test_two_replies_win_over_the_messages_that_repeat_the_better_one(judge):
    row = preference("Hi", as_json(ASK, GOOD), as_json(ASK, BAD), messages=as_json(ASK, GOOD))
    assert judge.example({**row, "score_chosen": 7.0}) == pair(ASK)
    assert check_dataset(judge.path).ignored_fields == ("messages", "score_chosen")


def test_fields_that_nothing_reads_are_told_wherever_they_are(judge):
    row = openai([ASK], parallel_tool_calls=True)
    row["input"]["messages"][0]["name"] = "Ann"
    row["preferred_output"][0]["score"] = 1
    assert judge.report(jsonl({**row, "id": 1})).ignored_fields == (
        "id",
        "input.messages[].name",
        "input.parallel_tool_calls",
        "preferred_output[].score",
    )
    row = preference([{**as_json(ASK)[0], "name": "Ann"}])
    assert judge.report(jsonl(row)).ignored_fields == ("prompt[].name",)


def test_the_same_pair_twice_is_a_duplicate_and_the_swapped_pair_is_not(judge):
    swapped = preference("Hi", "Go away", "Hello")
    report = judge.report(jsonl(preference("Hi"), preference("Hi "), swapped))
    assert (report.rows, report.duplicates) == (3, 1)


@pytest.mark.parametrize(
    ("row", "code", "field", "hint"),
    [
        (preference("Hi", "Hello", "Hello"), "no_preference", "rejected", "another reply"),
        (preference("Hi", "Hello", " Hello\n"), "no_preference", "rejected", "remove the row"),
        (whole([ASK, GOOD], [ASK, GOOD]), "no_preference", "rejected", "same as chosen"),
        (
            openai([ASK], [GOOD], [GOOD]),
            "no_preference",
            "non_preferred_output",
            "same as preferred_output",
        ),
        (
            {"chosen": "Hello", "rejected": "No"},
            "missing_field",
            "prompt",
            "found 'chosen' and 'rejected', add 'prompt'",
        ),
        (
            {"promt": "Hi", "chosen": "Hello", "rejected": "No"},
            "missing_field",
            "prompt",
            "rename 'promt'",
        ),
        (preference(None), "missing_field", "prompt", "add 'prompt'"),
        (preference(7), "wrong_type", "prompt", "a string or an array"),
        (preference("Hi", None), "wrong_type", "chosen", "null"),
        (preference("Hi", as_json(GOOD)[0]), "wrong_type", "chosen", "an object"),
        (preference(" "), "empty", "prompt", "fill it in"),
        (preference("Hi", "Hello", ""), "empty", "rejected", "fill it in"),
        (preference("Hi", []), "empty", "chosen", "empty array"),
        (
            preference("Hi", as_json(SYSTEM, ASK, GOOD)),
            "different_prompts",
            "chosen[0].role",
            "the same up to the reply",
        ),
        (
            whole([ASK, GOOD], [SYSTEM, ASK, BAD]),
            "different_prompts",
            "chosen[0].role",
            "'user'",
        ),
        (
            whole([ASK, GOOD, ASK, BAD], [ASK, BAD, ASK, GOOD]),
            "different_prompts",
            "chosen[2].role",
            "go on with the assistant only",
        ),
        (
            whole([ASK, GOOD], [ASK, GOOD, ASK, BAD]),
            "different_prompts",
            "chosen",
            "ends where rejected goes on",
        ),
        (
            whole([SYSTEM, GOOD], [SYSTEM, BAD]),
            "invalid_role",
            "chosen[1].role",
            "user before it",
        ),
        (
            preference("Hi", as_json(GOOD, weight=0.5)),
            "invalid_weight",
            "chosen[0].weight",
            "is 0.5; the replies of a comparison count in full",
        ),
        (
            preference("Hi", tools=[{}]),
            "tools_not_supported",
            "tools",
            "remove the row",
        ),
        (openai([ASK], tools=[{}]), "tools_not_supported", "input.tools", "remove the row"),
        ({**openai([ASK]), "input": "Hi"}, "wrong_type", "input", '{"messages": [...]}'),
        ({**openai([ASK]), "input": {}}, "missing_field", "input.messages", "add 'messages'"),
        (
            {**openai([ASK]), "preferred_output": "Hello"},
            "wrong_type",
            "preferred_output",
            "an array of messages",
        ),
        (
            openai([ASK], [ASK, GOOD]),
            "different_prompts",
            "preferred_output[0].role",
            "'preferred_output' go on",
        ),
        (
            {"prompt": "Hi", "chosen": "Hello", "rejectd": "No"},
            "unknown_format",
            None,
            "rename 'rejectd' to 'rejected'",
        ),
    ],
)
def test_a_bad_comparison_is_named_and_explained(judge, row, code, field, hint):
    problem = judge.row_problem(row)
    assert (problem.line, problem.code, problem.field) == (1, code, field)
    assert hint in problem.message
    assert problem.message.startswith("Line 1: ")
    assert problem.message.endswith(".")


def test_comparisons_and_plain_replies_do_not_mix(judge):
    problem = judge.problem(jsonl(preference("Hi"), {"prompt": "Hi", "completion": "Hello"}))
    assert (problem.line, problem.code) == (2, "mixed_format")
