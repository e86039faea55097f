from typing import Any

import pytest
from hypothesis import given, strategies as st

from adapters.errors import GraftError, InvalidValue
from adapters.records import TrainingSpec
from service.schemas.finetune import FinetuneOptions, parse_options, training_spec


def spec(rows: int = 1000, **fields: Any) -> TrainingSpec:
    return training_spec(parse_options(fields), rows=rows, max_seq_length=2048)


def test_the_defaults_are_those_of_the_record() -> None:
    plain = TrainingSpec()
    made = spec()
    assert (made.lora, made.optimizer, made.early_stopping) == (
        plain.lora,
        plain.optimizer,
        plain.early_stopping,
    )
    assert (made.batch_size, made.n_epochs, made.gate) == (16, 3, "auto")


@given(st.integers(1, 10**7))
def test_auto_gives_small_sets_enough_steps_and_large_ones_no_more_than_three_epochs(
    rows: int,
) -> None:
    made = spec(rows)
    steps = made.n_epochs * -(-rows // made.batch_size)
    assert 1 <= made.batch_size <= 16
    assert 3 <= made.n_epochs <= 15
    assert steps >= 120 or made.n_epochs == 15
    assert made.n_epochs == 3 or steps < 120 + -(-rows // made.batch_size)


def test_form_fields_are_text_and_mean_the_same_as_json() -> None:
    form = spec(n_epochs="2", learning_rate="1e-3", lora='{"rank": 8}', early_stopping="false")
    json = spec(n_epochs=2, learning_rate=1e-3, lora={"rank": 8}, early_stopping=False)
    assert form == json
    assert form.lora.alpha == 16


def test_a_multiplier_scales_the_default_rate() -> None:
    assert spec(learning_rate_multiplier=0.5).optimizer.learning_rate == pytest.approx(1e-4)
    assert spec(learning_rate_multiplier=9, learning_rate=1e-5).optimizer.learning_rate == 1e-5


def test_other_tools_words_are_understood() -> None:
    assert parse_options({"epochs": 4, "suffix": "bot", "model": "m"}) == FinetuneOptions(
        n_epochs=4, name="bot", base_model="m"
    )


@given(
    st.dictionaries(
        st.sampled_from(sorted(FinetuneOptions.model_fields)),
        st.one_of(
            st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.lists(st.integers())
        ),
        max_size=4,
    )
)
def test_no_value_whatever_gets_past_as_anything_but_a_spec_or_a_named_error(
    fields: dict[str, Any],
) -> None:
    refused = []
    try:
        spec(**fields)
    except GraftError as error:
        refused.append(error)
    assert [(error.status, bool(error.param)) for error in refused] in ([], [(400, True)])


@pytest.mark.parametrize("rate", [0, -1, 1.5, float("nan"), float("inf")])
def test_a_learning_rate_that_cannot_be_meant_is_refused(rate: float) -> None:
    with pytest.raises(InvalidValue):
        spec(learning_rate=rate)
