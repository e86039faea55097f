"""What counted repetitions come to is counted without compiling anything."""

import json

import pytest
from hypothesis import given, strategies as st

from adapters.errors import InvalidValue
from service.schemas.grammars import check_grammar, copies_of, with_texts_read

COPIES = [
    ("", 0),
    ("abc", 3),
    ("a{3}", 3),
    ("a{2,5}b", 6),
    ("a{,4}", 4),
    ("a{3,}", 3),
    ("(ab){10}", 20),
    ("((a{2}){3}){4}", 24),
    ("(a|b){5}c*", 11),
    ("[a-z\\]{9}]{7}", 7),
    ("\\{9}", 3),
    ("\\d{8}", 8),
    ("a{}", 1),
    ("a{x}", 4),
    (")a{2}", 3),
    ("(a{2}", 2),
    ("[", 1),
    ("\\", 1),
    ("(a{1,1000}){1,1000}", 1_000_000),
]


@pytest.mark.parametrize(("expression", "copies"), COPIES)
def test_an_expression_counts_as_it_would_be_written_out(expression: str, copies: int) -> None:
    assert copies_of(expression) == copies


@given(st.text(alphabet="a(){},0123456789[]\\|*+?.", max_size=200))
def test_any_text_is_counted_and_none_costs_more_than_its_length(text: str) -> None:
    assert copies_of(text) >= 0


@given(st.integers(1, 50), st.integers(1, 50))
def test_repetitions_in_each_other_are_multiplied(inner: int, outer: int) -> None:
    assert copies_of(f"(?:x{{{inner}}}){{{outer}}}") == (inner + 1) * outer


WRONG = [
    ("pattern", {"type": "string", "pattern": "(a{99}){99}"}),
    ("pattern", {"properties": {"pattern": {"pattern": "a{1001}"}}}),
    ("pattern", {"anyOf": [{"items": [{"pattern": "a{1001}"}]}]}),
    ("patternProperties", {"patternProperties": {"a{1001}": {}}}),
    ("regex", {"regex": "a{1001}"}),
    ("grammar", {"grammar": 'root ::= "a"{1001}'}),
    ("maxLength", {"maxLength": 1001}),
    ("minItems", {"items": {}, "minItems": 1e9}),
    ("pattern", {"json": json.dumps({"pattern": "a{1001}"})}),
    ("maxItems", {"structural_tag": json.dumps({"structures": [{"schema": {"maxItems": 1001}}]})}),
]


@pytest.mark.parametrize(("keyword", "schema"), WRONG)
def test_what_would_be_copied_too_often_is_named(keyword: str, schema: dict[str, object]) -> None:
    with pytest.raises(InvalidValue, match=f"'{keyword}' in 'response_format'") as caught:
        check_grammar("response_format", with_texts_read(schema), 1000)
    assert caught.value.param == "response_format"


@pytest.mark.parametrize(
    "schema",
    [
        None,
        "a{9999}",
        {"properties": {"pattern": {"type": "string"}, "maxLength": {"type": "integer"}}},
        {"pattern": ["a{9999}"], "json": "no JSON", "grammar": None, "maxLength": None},
        {"pattern": "^[a-z]{1,200}@[a-z]{1,200}$", "maxLength": 1000},
        {"description": "at most a{9999}", "json": "[" * 100_000},
    ],
    ids=range(6),
)
def test_what_is_no_repetition_or_within_the_bound_passes(schema: object) -> None:
    check_grammar("tools", with_texts_read(schema), 1000)
