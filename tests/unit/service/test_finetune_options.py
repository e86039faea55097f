import json
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from adapters.errors import GraftError, InvalidValue, UnknownField
from adapters.records import Version
from adapters.spec import (
    Dpo,
    LoraSpec,
    Supervised,
    TrainingSpec,
)
from service.schemas.finetune import FinetuneOptions, parse_options, training_spec
from tests.support.samples import version

QUICK = settings(deadline=None, database=None)
EVERY_LAYER = version().manifest.base.linear_modules


def spec(
    rows: int = 1000, *, pairs: bool = False, parent: Version | None = None, **fields: Any
) -> TrainingSpec:
    return training_spec(
        parse_options(fields), parent=parent, compares=pairs, rows=rows, max_seq_length=2048
    )


def openai(kind: str, **hyperparameters: Any) -> dict[str, Any]:
    return {"type": kind, kind: {"hyperparameters": hyperparameters}}


def test_the_defaults_are_those_of_the_record() -> None:
    plain = TrainingSpec()
    made = spec()
    assert (made.lora, made.optimizer, made.early_stopping) == (
        plain.lora,
        plain.optimizer,
        plain.early_stopping,
    )
    assert (made.batch_size, made.n_epochs, made.gate) == (16, 3, "auto")


@QUICK
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


def test_sampling_defaults_are_kept_for_the_version_that_is_made() -> None:
    given = {"temperature": 0.3, "stop": ["###"], "preset": "anti-repetition"}
    assert spec().sampling == {}
    assert spec(defaults=given).sampling == spec(defaults=json.dumps(given)).sampling == given
    for wrong, param in (
        ({"temperature": 3}, "defaults.temperature"),
        ({"preset": "loud"}, "defaults.preset"),
        ("{", "defaults"),
        (1, "defaults"),
    ):
        with pytest.raises(InvalidValue) as refused:
            spec(defaults=wrong)
        assert refused.value.param == param
    with pytest.raises(UnknownField, match="temperature"):
        spec(defaults={"temprature": 1})


def test_other_tools_words_are_understood() -> None:
    words = {"epochs": 4, "suffix": "bot", "model": "m", "loraplus_lr_ratio": 16}
    assert parse_options(words) == FinetuneOptions(
        n_epochs=4, name="bot", base_model="m", lora_plus_ratio=16
    )


@QUICK
@given(
    st.dictionaries(
        st.sampled_from(sorted(FinetuneOptions.model_fields)),
        st.one_of(
            st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.lists(st.integers())
        ),
        max_size=4,
    ),
    st.booleans(),
    st.none() | st.just(version()),
)
def test_no_value_whatever_gets_past_as_anything_but_a_spec_or_a_named_error(
    fields: dict[str, Any], pairs: bool, parent: Version | None
) -> None:
    refused = []
    try:
        spec(pairs=pairs, parent=parent, **fields)
    except GraftError as error:
        refused.append(error)
    assert [(error.status, bool(error.param)) for error in refused] in ([], [(400, True)])


@pytest.mark.parametrize("rate", [0, -1, 1.5, float("nan"), float("inf")])
def test_a_learning_rate_that_cannot_be_meant_is_refused(rate: float) -> None:
    with pytest.raises(InvalidValue):
        spec(learning_rate=rate)


# ---- methods


def test_the_rows_decide_the_method_where_nobody_does() -> None:
    assert spec().method == Supervised()
    assert spec(pairs=True).method == Dpo()


@pytest.mark.parametrize(
    "method", ["dpo", {"type": "dpo"}, '{"type": "dpo"}', openai("dpo"), openai("dpo", beta="auto")]
)
def test_dpo_is_asked_for_in_one_word_or_in_openais_shape(method: Any) -> None:
    assert spec(pairs=True, method=method) == spec(pairs=True)


@pytest.mark.parametrize("method", ["supervised", openai("supervised"), {"type": "supervised"}])
def test_supervised_is_asked_for_in_the_same_ways(method: Any) -> None:
    assert spec(method=method) == spec()


def test_hyperparameters_mean_the_same_inside_method_and_beside_it() -> None:
    numbers = {"n_epochs": 2, "batch_size": 4, "learning_rate_multiplier": 0.5}
    assert spec(method=openai("supervised", **numbers)) == spec(**numbers)
    inside = spec(pairs=True, method=openai("dpo", beta=0.3, **numbers))
    assert inside == spec(pairs=True, beta="0.3", **numbers)
    assert inside.method == Dpo(beta=0.3)
    assert inside.n_epochs == 2


def test_an_option_given_twice_must_say_the_same() -> None:
    method = openai("dpo", n_epochs=3)
    assert spec(pairs=True, method=method, n_epochs="3").n_epochs == 3
    assert spec(pairs=True, method=method, n_epochs="auto").n_epochs == 3
    assert spec(pairs=True, method=openai("dpo", n_epochs="auto"), n_epochs=4).n_epochs == 4
    with pytest.raises(InvalidValue, match="n_epochs is 4, and 3 in") as raised:
        spec(pairs=True, method=method, n_epochs=4)
    assert raised.value.param == "n_epochs"


def test_dpo_learns_forty_times_slower_unless_told_otherwise() -> None:
    assert spec(pairs=True).optimizer.learning_rate == 5e-6
    halved = spec(pairs=True, learning_rate_multiplier=0.5)
    assert halved.optimizer.learning_rate == pytest.approx(2.5e-6)
    assert spec(pairs=True, learning_rate=1e-4).optimizer.learning_rate == 1e-4


@pytest.mark.parametrize(
    ("pairs", "fields", "param", "says"),
    [
        (False, {"method": "dpo"}, "method", "needs rows that compare two replies"),
        (True, {"method": "supervised"}, "method", "which is for the method 'dpo'"),
        (False, {"beta": 0.1}, "beta", "is for the method 'dpo'"),
        (True, {"beta": 0}, "beta", "above 0"),
        (True, {"beta": 2.5}, "beta", "at most 2"),
        (True, {"beta": float("nan")}, "beta", "above 0"),
        (True, {"beta": "much"}, "beta", "much"),
        (True, {"method": "kto"}, "method", "'supervised' or 'dpo'"),
        (True, {"method": {"type": "reinforcement"}}, "method.type", "'supervised' or 'dpo'"),
        (True, {"method": {}}, "method.type", "not None"),
        (True, {"method": {"type": ["dpo"]}}, "method.type", "'supervised' or 'dpo'"),
        (True, {"method": '{"type": "dpo"'}, "method", "not valid JSON"),
        (True, {"method": {"type": "dpo", "supervised": {}}}, "method.supervised", "Remove one"),
        (True, {"method": {"type": "dpo", "dpo": []}}, "method.dpo", "must be an object"),
        (False, {"lora_plus_ratio": 0.9}, "lora_plus_ratio", "greater than or equal to 1"),
        (False, {"lora_plus_ratio": float("inf")}, "lora_plus_ratio", "less than"),
        (False, {"lora": {"alpha": float("inf")}}, "lora.alpha", "finite"),
    ],
)
def test_a_method_that_cannot_be_is_refused_and_says_why(
    pairs: bool, fields: dict[str, Any], param: str, says: str
) -> None:
    with pytest.raises(InvalidValue) as raised:
        spec(pairs=pairs, **fields)
    assert raised.value.param == param
    assert says in raised.value.message


@pytest.mark.parametrize(
    ("fields", "name", "nearest"),
    [
        ({"method": {"typ": "dpo"}}, "method.typ", "method.type"),
        ({"method": {"type": "dpo", "dpo": {"beta": 1}}}, "method.dpo.beta", "hyperparameters"),
        (
            {"method": openai("dpo", bta=0.1)},
            "method.dpo.hyperparameters.bta",
            "hyperparameters.beta",
        ),
        ({"method": openai("supervised", beta=0.1)}, "method.supervised.hyperparameters.beta", ""),
        ({"lora": {"rslora": True}}, "lora.rslora", "lora.use_rslora"),
        ({"continue_form": "bot"}, "continue_form", "continue_from"),
    ],
)
def test_a_misspelt_name_is_told_with_the_nearest(
    fields: dict[str, Any], name: str, nearest: str
) -> None:
    with pytest.raises(UnknownField) as raised:
        spec(**fields)
    assert raised.value.param == name
    assert nearest in raised.value.message


def test_the_variants_of_lora_reach_the_spec() -> None:
    made = spec(lora={"use_rslora": True}, lora_plus_ratio=16)
    assert (made.lora.rslora, made.optimizer.lora_plus_ratio) == (True, 16)
    assert (spec().lora.rslora, spec().optimizer.lora_plus_ratio) == (False, 1)


# ---- continuing


def test_what_continues_a_version_has_its_shape_and_its_name() -> None:
    parent = version(3, rank=8, alpha=24.0, target_modules=("q_proj", "v_proj"), rslora=True)
    made = spec(parent=parent, lora={"dropout": 0.1})
    assert made.parent == "support-bot@3"
    assert made.lora == LoraSpec(
        rank=8, alpha=24.0, dropout=0.1, target_modules=("q_proj", "v_proj"), rslora=True
    )
    assert spec().parent is None


def test_asking_for_the_shape_that_the_parent_has_is_no_contradiction() -> None:
    parent = version(rank=8, alpha=24.0, target_modules=EVERY_LAYER[::-1], rslora=True)
    same = {"rank": 8, "alpha": 24, "target_modules": "all-linear", "use_rslora": True}
    assert spec(parent=parent, lora=same) == spec(parent=parent)
    assert spec(parent=parent, lora={"alpha": None}) == spec(parent=parent)


@pytest.mark.parametrize(
    ("lora", "field", "says"),
    [
        ({"rank": 16}, "lora.rank", "16, while support-bot@1 has 8"),
        ({"alpha": 32}, "lora.alpha", "32.0, while support-bot@1 has 24.0"),
        ({"use_rslora": True}, "lora.use_rslora", "true, while support-bot@1 has false"),
        ({"target_modules": ["k_proj"]}, "lora.target_modules", "k_proj, while"),
        ({"target_modules": "all-linear"}, "lora.target_modules", "down_proj"),
        ({"target_modules": []}, "lora.target_modules", "empty, while"),
    ],
)
def test_another_shape_than_the_parents_is_a_contradiction(
    lora: dict[str, Any], field: str, says: str
) -> None:
    parent = version(rank=8, alpha=24.0, target_modules=("q_proj", "v_proj"))
    with pytest.raises(InvalidValue) as raised:
        spec(parent=parent, lora=lora)
    assert raised.value.param == field
    assert says in raised.value.message
    assert f"Leave {field} out." in raised.value.message
