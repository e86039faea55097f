from dataclasses import replace

import pytest
from hypothesis import given, strategies as st

from adapters.errors import InvalidValue
from adapters.names import (
    RESERVED,
    FineTunedName,
    check_adapter_name,
    new_id,
    parse_fine_tuned_name,
    parse_model_name,
)

NAMES = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,62}", fullmatch=True).filter(
    lambda name: name not in RESERVED
)


@given(NAMES)
def test_a_good_name_is_kept_and_is_its_own_model_name(name: str) -> None:
    assert check_adapter_name(name, base_models=["a-base-model/with-a-slash"]) == name
    assert parse_model_name(name).adapter == name


@given(NAMES, st.integers(1, 10**6))
def test_a_version_name_is_taken_apart_again(name: str, number: int) -> None:
    parsed = parse_model_name(f"{name}@{number}")
    assert (parsed.adapter, parsed.number) == (name, number)


@given(st.text())
def test_whatever_a_client_calls_a_model_is_parsed_without_an_error(model: str) -> None:
    parsed = parse_model_name(model)
    assert parsed.adapter == model.partition("@")[0]


@pytest.mark.parametrize(
    "name",
    ["", "A", "-x", ".x", "a b", "a/b", "../x", "a@1", "ä", "x" * 64, "text", "base-1", "a\n"],
)
def test_a_name_that_could_be_mistaken_for_something_else_is_refused(name: str) -> None:
    with pytest.raises(InvalidValue):
        check_adapter_name(name, base_models=["base-1"])


def test_ids_do_not_repeat() -> None:
    ids = {new_id("ftjob-") for _ in range(1000)}
    assert len(ids) == 1000
    assert {len(one) for one in ids} == {len("ftjob-") + 24}


@pytest.mark.parametrize("step", [None, 0, 2000])
def test_openai_names_are_read_as_they_are_written(step: int | None) -> None:
    name = FineTunedName.of_job(
        "ftjob-0123456789ABCDEFGHabcdef",
        base_model="HuggingFace/SmolLM2",
        adapter="bot.1",
        step=step,
    )
    assert "/" not in str(name)
    assert parse_fine_tuned_name(str(name)) == replace(name, base_model="SmolLM2")


@pytest.mark.parametrize(
    "text",
    ["support-bot", "support-bot@3", "ft:a:b:c", "ft:a:b:c:short", "ft:a:b:c:abcdefgh:ckpt-step-x"],
)
def test_other_names_are_no_openai_names(text: str) -> None:
    assert parse_fine_tuned_name(text) is None
