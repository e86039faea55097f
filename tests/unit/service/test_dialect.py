"""What OpenAI's clients send: a table for what it means in the words of `POST /finetune`, one for what is refused."""

from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from adapters.errors import GraftError, InvalidValue, UnsupportedMethod
from adapters.names import RESERVED, check_adapter_name
from service.schemas.dialect import legal_name, parse_job_request

BASES = ["org/tiny-base", "other"]
QUICK = settings(deadline=None, database=None)


def asked(**fields: Any) -> dict[str, Any]:
    """What the request says beyond the defaults."""
    body = {"model": "other", "training_file": "file-1"} | fields
    options = parse_job_request(body, BASES).model_dump(exclude_unset=True)
    assert options.pop("training_file") == "file-1"
    if body["model"] == "other":
        assert options.pop("base_model") == "other"
    return options


def method(kind: str, **hyperparameters: Any) -> dict[str, Any]:
    return {"type": kind, kind: {"hyperparameters": hyperparameters}}


WANDB = {"type": "wandb", "wandb": {"project": "p", "tags": ["a"], "entity": None}}


@pytest.mark.parametrize(
    ("fields", "means"),
    [
        ({}, {}),
        ({"suffix": "my-bot"}, {"name": "my-bot"}),
        ({"suffix": "My Bot: v2!"}, {"name": "my-bot--v2-"}),
        ({"suffix": ""}, {}),
        ({"suffix": None, "seed": None, "method": None, "hyperparameters": None}, {}),
        ({"seed": 7, "metadata": {"a": "b"}}, {"seed": 7, "metadata": {"a": "b"}}),
        ({"integrations": [WANDB]}, {"integrations": [WANDB]}),
        ({"integrations": [{"type": "mlflow", "x": 1}]}, {"integrations": [{"type": "mlflow", "x": 1}]}),
        ({"validation_file": "file-2"}, {"validation_file": "file-2"}),
        # the numbers, in each of the three places
        ({"hyperparameters": {"n_epochs": 3}}, {"n_epochs": 3}),
        ({"method": method("supervised", n_epochs=3)}, {"method": "supervised", "n_epochs": 3}),
        ({"n_epochs": 3}, {"n_epochs": 3}),
        ({"hyperparameters": {"n_epochs": "auto", "batch_size": "auto"}, "seed": "auto"}, {}),
        ({"method": method("dpo", beta=0.2)}, {"method": "dpo", "beta": 0.2}),
        ({"method": {"type": "dpo"}}, {"method": "dpo"}),
        ({"method": {"type": "dpo", "dpo": {}, "supervised": None}}, {"method": "dpo"}),
        ({"hyperparameters": {"n_epochs": 3}, "n_epochs": 3}, {"n_epochs": 3}),
        ({"hyperparameters": {"n_epochs": "auto"}, "n_epochs": 3}, {"n_epochs": 3}),
        ({"learning_rate": 1e-3, "warmup_ratio": 0.1}, {"learning_rate": 1e-3, "warmup_ratio": 0.1}),
        ({"epochs": 2, "weight_decay": 0.0}, {"n_epochs": 2, "weight_decay": 0.0}),
        ({"context_length": 512}, {"max_seq_length": 512}),
        ({"hyperparameters": {"gate": "off", "lora_plus_ratio": 4}}, {"gate": "off", "lora_plus_ratio": 4.0}),
        # LoRA, flat and nested
        ({"lora": True}, {}),
        ({"hyperparameters": {"lora": True, "lora_r": 8}}, {"lora": {"rank": 8}}),
        ({"lora_rank": 8, "lora_alpha": 16, "lora_dropout": 0.1}, {"lora": {"rank": 8, "alpha": 16.0, "dropout": 0.1}}),
        ({"lora": {"rank": 8, "use_rslora": True}}, {"lora": {"rank": 8, "use_rslora": True}}),
        ({"lora": {"rank": 8}, "hyperparameters": {"lora_alpha": 4}}, {"lora": {"rank": 8, "alpha": 4.0}}),
        ({"lora": {"rank": "auto", "alpha": None}}, {}),
        # the model
        ({"model": "org/tiny-base"}, {"base_model": "org/tiny-base"}),
        ({"model": "tiny-base"}, {"base_model": "org/tiny-base"}),
        ({"model": "support-bot@2"}, {"continue_from": "support-bot@2"}),
        ({"model": "ft:other:graft:bot:aB3dE6gH"}, {"continue_from": "ft:other:graft:bot:aB3dE6gH"}),
        ({"continue_from": "support-bot"}, {"continue_from": "support-bot"}),
    ],
)  # fmt: skip
def test_what_is_sent_means_the_same_as_on_finetune(
    fields: dict[str, Any], means: dict[str, Any]
) -> None:
    assert asked(**fields) == means


@pytest.mark.parametrize(
    ("fields", "param", "says"),
    [
        ({"model": None}, "model", "required"),
        ({"model": 3}, "model", "required"),
        ({"training_file": None}, "training_file", "required"),
        ({"training_files": "x"}, "training_files", "'training_file'"),
        ({"hyperparameter": {}}, "hyperparameter", "'hyperparameters'"),
        ({"data": []}, "data", "Unknown field"),
        ({"hyperparameters": {"n_epoch": 3}}, "hyperparameters.n_epoch", "'hyperparameters.n_epochs'"),
        ({"hyperparameters": {"suffix": "x"}}, "hyperparameters.suffix", "Unknown field"),
        ({"hyperparameters": 3}, "hyperparameters", "an object"),
        ({"method": method("dpo", bta=0.1)}, "method.dpo.hyperparameters.bta", "beta'"),
        ({"method": {"type": "ppo"}}, "method.type", "'dpo'"),
        ({"method": {}}, "method.type", "'dpo'"),
        ({"method": {"type": "dpo", "supervised": {}}}, "method.supervised", "Remove one"),
        ({"method": {"type": "dpo", "dpo": 3}}, "method.dpo", "an object"),
        ({"method": {"type": "dpo", "dpo": {"beta": 1}}}, "method.dpo.beta", "Unknown field"),
        ({"n_epochs": 3, "hyperparameters": {"n_epochs": 4}}, "n_epochs", "Give it once"),
        ({"lora_r": 8, "lora": {"rank": 16}}, "lora.rank", "Give it once"),
        ({"lora": False}, "lora", "only LoRA"),
        ({"lora": {"rnk": 8}}, "lora.rnk", "rank"),
        ({"lora_r": 0}, "lora.rank", "greater than or equal to 1"),
        ({"weight_decay": 3}, "weight_decay", "less than or equal to 1"),
        ({"suffix": "x" * 65}, "suffix", "64"),
        ({"suffix": "日本"}, "suffix", "letter"),
        ({"suffix": 3}, "suffix", "text"),
        ({"suffix": "base"}, "suffix", "reserved"),
        ({"suffix": "one", "name": "two"}, "suffix", "Give it once"),
        ({"base_model": "org/tiny-base"}, "model", "Give it once"),
        ({"metadata": {str(n): "" for n in range(17)}}, "metadata", "at most 16"),
        ({"metadata": {"k" * 65: ""}}, "metadata", "at most 64"),
        ({"metadata": {"k": "v" * 513}}, "metadata", "at most 512"),
        ({"metadata": {"k": 3}}, "metadata.k", "string"),
        ({"integrations": [{}]}, "integrations", "'type'"),
        ({"integrations": [{"type": "wandb"}]}, "integrations", "project"),
        ({"integrations": [{"type": "wandb", "wandb": {"project": "p", "x": 1}}]}, "integrations", "'x'"),
        ({"integrations": [{"type": "wandb", "wandb": {"project": "p", "tags": "t"}}]}, "integrations", "tags"),
        ({"integrations": [{"type": "wandb", "wandb": {"project": "p", "name": 1}}]}, "integrations", "name"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_a_400_that_names_it_and_says_what_to_do(
    fields: dict[str, Any], param: str, says: str
) -> None:
    with pytest.raises(GraftError) as refused:
        asked(**fields)
    assert refused.value.status == 400
    assert refused.value.param == param
    assert says in refused.value.message


def test_reinforcement_has_a_code_of_its_own() -> None:
    with pytest.raises(UnsupportedMethod) as refused:
        asked(method={"type": "reinforcement", "reinforcement": {"grader": {}}})
    assert (refused.value.code, refused.value.status) == ("unsupported_method", 400)


@QUICK
@given(st.text(max_size=64))
def test_every_suffix_becomes_a_name_that_an_adapter_may_have_or_is_refused(suffix: str) -> None:
    if any(c.isascii() and c.isalnum() for c in suffix.lower()):
        name = legal_name(suffix)
        assert name in RESERVED or check_adapter_name(name, base_models=[]) == name
    else:
        with pytest.raises(InvalidValue, match="no letter or digit"):
            legal_name(suffix)
