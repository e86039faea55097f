"""Every bound of one request: at the bound it passes, one beyond it is an error that names the field and the bound."""

import json

import pytest

from adapters.errors import InvalidValue
from service.schemas.caps import check_caps
from service.settings import ServiceSettings

CAPS = ServiceSettings(
    max_choices=4,
    max_prompts=3,
    max_prompt_chars=50,
    max_output_tokens=100,
    max_logprobs=5,
    max_prompt_logprobs=1,
    max_stops=2,
    max_stop_chars=8,
    max_logit_bias=3,
    max_token_list=6,
    max_grammar_bytes=200,
    max_grammar_depth=7,
    max_tools=2,
    max_tools_bytes=400,
)


def deep(levels: int) -> dict[str, object]:
    schema: dict[str, object] = {}
    for _ in range(levels - 1):
        schema = {"a": schema}
    return schema


def tool(padding: int = 0) -> dict[str, object]:
    return {"type": "function", "function": {"name": "f" + "x" * padding}}


def say(*parts: object) -> list[dict[str, object]]:
    return [{"role": "u", "content": part} for part in parts]


FINE_AND_TOO_MUCH = [
    ("n", 4, 5, "4"),
    ("max_tokens", 100, 101, "100"),
    ("max_completion_tokens", 100, 101, "100"),
    ("max_output_tokens", 100, 10**9, "100"),
    ("min_tokens", 100, 101, "100"),
    ("logprobs", 5, 6, "5"),
    ("logprobs", 0, -1, "5"),
    ("top_logprobs", 5, 6, "5"),
    ("top_logprobs", 0, -1, "5"),
    ("prompt_logprobs", 1, 2, "1"),
    ("prompt_logprobs", 0, -1, "1"),
    ("stop", ["a", "b"], ["a", "b", "c"], "2"),
    ("stop", "a" * 8, "a" * 9, "8"),
    ("stop", ["a" * 8], ["", "a" * 9], "8"),
    ("stop_sequences", ["a", "b"], ["a", "b", "c"], "2"),
    ("stop_token_ids", [1] * 6, [1] * 7, "6"),
    ("allowed_token_ids", [1] * 6, [1] * 7, "6"),
    ("bad_words", ["x"] * 6, ["x"] * 7, "6"),
    ("logit_bias", {"1": 1, "2": 1, "3": 1}, dict.fromkeys("1234", 0), "3"),
    ("prompt", ["a"] * 3, ["a"] * 4, "3"),
    ("prompt", [[1, 2]] * 3, [[1]] * 4, "3"),
    ("prompt", "a" * 50, "a" * 51, "50"),
    ("prompt", [1] * 50, [1] * 51, "50"),
    ("prompt", [[1] * 25] * 2, [[1] * 26] * 2, "50"),
    ("tokens", [1] * 50, [1] * 51, "50"),
    ("messages", say("a" * 24, "a" * 24), say("a" * 25, "a" * 26), "50"),
    ("messages", say([{"text": "a" * 49}]), say([{"text": "a" * 50}]), "50"),
    ("input", "a" * 50, say("a" * 51), "50"),
    ("system", "a" * 50, "a" * 51, "50"),
    ("instructions", "a" * 50, "a" * 51, "50"),
    ("response_format", deep(7), deep(8), "7"),
    ("response_format", {"a": "x" * 150}, {"a": "x" * 200}, "200"),
    ("structured_outputs", {"regex": "x" * 150}, {"regex": "x" * 200}, "200"),
    ("structured_outputs", {"json": json.dumps(deep(6))}, {"json": json.dumps(deep(7))}, "7"),
    ("text", {"format": deep(6)}, {"format": deep(7)}, "7"),
    ("output_config", {"format": deep(6)}, {"format": deep(7)}, "7"),
    ("tools", [tool()] * 2, [tool()] * 3, "2"),
    ("tools", [tool(200)], [tool(400)], "400"),
    ("tools", [deep(6)], [deep(7)], "7"),
    ("n", "4", "5", "4"),
    ("max_tokens", " 1_00 ", "101", "100"),
    ("prompt_logprobs", "1", "-1", "1"),
    ("bad_words", ["x" * 8], ["x" * 9], "8"),
    ("prompt", [0, 2**31 - 1], [0, -1], "no token's id"),
    ("prompt", [[7]], [[2**31]], "no token's id"),
    ("prompt", ["-1"], [[-1], [1]], "no token's id"),
    ("tokens", [0], [-1], "no token's id"),
    ("logit_bias", {"0": 1}, {"-1": 1}, "no token's id"),
    ("stop_token_ids", [0], [2**31], "no token's id"),
    ("allowed_token_ids", [0], [-5], "no token's id"),
    ("seed", 2**63 - 1, 2**63, "64 bits"),
    ("messages", [{"seed": -(2**63)}], [{"seed": -(2**63) - 1}], "64 bits"),
    ("messages", deep(63), deep(64), "64 levels"),
]


@pytest.mark.parametrize(("field", "fine", "too_much", "bound"), FINE_AND_TOO_MUCH)
def test_a_bound_is_kept_and_named(field, fine, too_much, bound):
    check_caps({field: fine}, CAPS)
    with pytest.raises(InvalidValue) as caught:
        check_caps({field: too_much}, CAPS)
    assert caught.value.param == field
    assert f"'{field}'" in caught.value.message
    assert bound in caught.value.message


@pytest.mark.parametrize("most", ["max_tokens", "max_completion_tokens"])
def test_no_answer_must_be_longer_than_it_may_be(most: str) -> None:
    check_caps({"min_tokens": 9, most: 9}, CAPS)
    for fewest, longest in ((9, 8), ("9", 8), (9.0, "8")):
        with pytest.raises(
            InvalidValue, match=f"'min_tokens' may be at most '{most}', 8"
        ) as caught:
            check_caps({"min_tokens": fewest, most: longest}, CAPS)
        assert caught.value.param == "min_tokens"


@pytest.mark.parametrize("kind", ["web_search", "mcp", "code_interpreter", "file_search"])
def test_tools_that_somebody_else_would_have_to_run_are_refused_and_not_passed_over(kind):
    with pytest.raises(InvalidValue, match=kind):
        check_caps({"tools": [{"type": kind}]}, CAPS)
    for fine in ({"type": "function"}, {"type": "custom"}, {"name": "f", "input_schema": {}}):
        check_caps({"tools": [fine]}, CAPS)


@pytest.mark.parametrize("value", [None, True, "many", [], {}, [None], 0.5])
def test_what_has_another_type_is_the_engines_to_judge(value):
    for field, *_ in FINE_AND_TOO_MUCH:
        check_caps({field: value}, CAPS)


def test_what_ordinary_requests_ask_for_is_within_the_bounds_as_they_come() -> None:
    check_caps(
        {
            "messages": say("word " * 20_000),
            "n": 8,
            "max_tokens": 4096,
            "stop": ["###", "\n\n"],
            "top_logprobs": 20,
            "logprobs": True,
            "tools": [tool()] * 100,
            "response_format": {"type": "json_schema", "json_schema": {"schema": deep(10)}},
        },
        ServiceSettings(),
    )
