"""`POST /finetune`: the options of a request, and what they become."""

from collections.abc import Collection, Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
)

from adapters.errors import InvalidValue, UnknownField
from adapters.sampling import Sampling
from adapters.spec import (
    EarlyStopping,
    Method,
    OptimizerSpec,
    TrainingSpec,
)
from adapters.weights import Weights
from service.schemas.annotations import check_integrations, check_metadata
from service.schemas.fields import Auto, from_json
from service.schemas.lora import LoraOptions, lora_spec
from service.schemas.method import MethodName, resolve_method, spread_method, usual_rate
from service.schemas.webhooks import WebhookOptions, webhook_from

#: "auto" aims at this many optimizer steps, within the bounds below.
_AUTO_STEPS = 120
_AUTO_BATCH, _AUTO_ROWS_PER_STEP = 16, 20
_AUTO_EPOCHS = (3, 15)


class EarlyStoppingOptions(BaseModel):
    """`early_stopping` in its long form."""

    model_config = ConfigDict(extra="forbid")

    patience: int = Field(3, ge=1)
    min_delta: float = Field(0.001, ge=0)


class FinetuneOptions(BaseModel):
    """Everything but the data. All optional."""

    model_config = ConfigDict(extra="forbid")

    name: str | None = None
    base_model: str | None = None
    #: Where it is not given, the one that the rows are for.
    method: MethodName | None = None
    beta: float | Auto = "auto"
    #: An adapter, or a version of one, to start from.
    continue_from: str | None = None
    n_epochs: int | Auto = "auto"
    batch_size: int | Auto = "auto"
    learning_rate: float | Auto = "auto"
    learning_rate_multiplier: float | Auto = "auto"
    weight_decay: float = Field(0.01, ge=0, le=1)
    warmup_ratio: float = Field(0.05, ge=0, le=1)
    max_grad_norm: float = Field(1.0, gt=0)
    lora_plus_ratio: float = Field(1.0, ge=1, le=1000)
    max_seq_length: int | Auto = "auto"
    validation_split: float = Field(0.05, ge=0, le=0.5)
    early_stopping: Annotated[bool | EarlyStoppingOptions, BeforeValidator(from_json)] = True
    lora: Annotated[LoraOptions, BeforeValidator(from_json)] = LoraOptions()
    gate: Literal["auto", "off"] = "auto"
    #: What requests to the version leave open.
    defaults: Annotated[Sampling, BeforeValidator(from_json)] = Sampling()
    priority: Literal["low", "normal", "high"] = "normal"
    seed: int = Field(42, ge=0, lt=2**31)
    metadata: Annotated[
        dict[str, str] | None, BeforeValidator(from_json), AfterValidator(check_metadata)
    ] = None
    integrations: Annotated[
        list[dict[str, Any]] | None, BeforeValidator(from_json), AfterValidator(check_integrations)
    ] = None
    #: Who is told of this job: a URL, or an object with more.
    webhook: Annotated[WebhookOptions | None, BeforeValidator(webhook_from)] = None
    training_file: str | None = None
    validation_file: str | None = None


_NESTED: Mapping[str, type[BaseModel]] = {
    "defaults": Sampling,
    "early_stopping": EarlyStoppingOptions,
    "lora": LoraOptions,
    "webhook": WebhookOptions,
}
#: Other names that people's code uses for the same thing.
SYNONYMS = {
    "model": "base_model",
    "epochs": "n_epochs",
    "suffix": "name",
    "loraplus_lr_ratio": "lora_plus_ratio",
}
DATA_FIELDS = frozenset({"data", "validation_data"})


def parse_options(
    fields: dict[str, Any], *, beside: Collection[str] = (), where: str = "POST /finetune"
) -> FinetuneOptions:
    """Check the options of a request. `beside` names what may come with them and is read elsewhere.

    Raises:
        UnknownField: a name that does not exist; the message suggests the nearest.
        InvalidValue: a value out of range; the message names the field and the range.
    """
    options = {SYNONYMS.get(name, name): value for name, value in fields.items()}
    known = [*FinetuneOptions.model_fields, *SYNONYMS, *DATA_FIELDS, *beside]
    for name in fields:
        if name not in known:
            raise UnknownField.named(name, known, where=where)
    try:
        return FinetuneOptions.model_validate(spread_method(options))
    except ValidationError as error:
        # A misspelt name first: that another one is missing is a consequence.
        details = sorted(error.errors(), key=lambda one: one["type"] != "extra_forbidden")
        raise _invalid(details[0]) from error


def training_spec(
    options: FinetuneOptions,
    *,
    parent: Weights | None = None,
    compares: bool = False,
    rows: int,
    max_seq_length: int,
) -> TrainingSpec:
    """What the job computes: every "auto" resolved to a number, and the method to the one that the rows are for.

    `parent` is the version that it continues, and gives the adapter its shape. `compares` says whether the rows compare
    two replies.

    The rules for the numbers, also in docs/training.md: a batch of rows/20, at most 16 and at least 1; epochs enough
    for about 120 steps, at least 3 and at most 15.
    """
    batch_size = _whole_or(
        options.batch_size, "batch_size", min(_AUTO_BATCH, max(1, rows // _AUTO_ROWS_PER_STEP))
    )
    steps_per_epoch = -(-rows // batch_size)
    low, high = _AUTO_EPOCHS
    n_epochs = _whole_or(
        options.n_epochs, "n_epochs", min(high, max(low, -(-_AUTO_STEPS // steps_per_epoch)))
    )
    length = _whole_or(options.max_seq_length, "max_seq_length", max_seq_length)
    if length > max_seq_length:
        raise InvalidValue(
            f"max_seq_length may be at most {max_seq_length} here: what was trained on longer rows "
            "could not be served.",
            param="max_seq_length",
        )
    method = resolve_method(options.method, options.beta, compares=compares)
    return TrainingSpec(
        lora=lora_spec(options.lora, parent),
        optimizer=OptimizerSpec(
            learning_rate=_learning_rate(options, method),
            weight_decay=options.weight_decay,
            max_grad_norm=options.max_grad_norm,
            warmup_ratio=options.warmup_ratio,
            lora_plus_ratio=options.lora_plus_ratio,
        ),
        early_stopping=_early_stopping(options.early_stopping),
        method=method,
        parent=parent.name if parent else None,
        n_epochs=n_epochs,
        batch_size=batch_size,
        max_seq_length=length,
        validation_split=options.validation_split,
        seed=options.seed,
        gate=options.gate,
        sampling=options.defaults.given,
    )


def _early_stopping(option: bool | EarlyStoppingOptions) -> EarlyStopping:  # noqa: FBT001  as on the wire
    if isinstance(option, bool):
        return EarlyStopping(enabled=option)
    return EarlyStopping(patience=option.patience, min_delta=option.min_delta)


def _learning_rate(options: FinetuneOptions, method: Method) -> float:
    rate = usual_rate(method)
    if options.learning_rate != "auto":
        rate = options.learning_rate
    elif options.learning_rate_multiplier != "auto":
        rate *= options.learning_rate_multiplier
    if not 0 < rate <= 1:
        raise InvalidValue(
            f"learning_rate must be above 0 and at most 1, not {rate}.", param="learning_rate"
        )
    return rate


def _whole_or(value: int | Auto, name: str, automatic: int) -> int:
    if value == "auto":
        return automatic
    if value < 1:
        raise InvalidValue(f"{name} must be at least 1, not {value}.", param=name)
    return value


def _invalid(detail: Mapping[str, Any]) -> InvalidValue | UnknownField:
    path = [str(part) for part in detail["loc"] if part not in {"int", "float", "bool"}]
    field = ".".join(part for part in path if not part.startswith(("literal[", "function-")))
    if detail["type"] == "extra_forbidden":
        known = _NESTED[path[0]].model_fields
        return UnknownField.named(
            field, [f"{path[0]}.{name}" for name in known], where=f"'{path[0]}'"
        )
    if detail["type"] == "missing":
        return InvalidValue(f"{field} is required.", param=field)
    got = repr(detail.get("input"))[:80]
    return InvalidValue(f"{field}: {detail['msg']} (got {got}).", param=field)
