"""`lora`: the shape of the adapter, asked for or taken over from the version that a job continues."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from adapters.errors import InvalidValue
from adapters.manifest import Manifest
from adapters.spec import LoraSpec
from adapters.weights import Weights


class LoraOptions(BaseModel):
    """`lora`."""

    model_config = ConfigDict(extra="forbid")

    rank: int = Field(16, ge=1, le=512)
    #: Twice the rank where it is not given.
    alpha: float | None = Field(None, gt=0, allow_inf_nan=False)
    dropout: float = Field(0.0, ge=0, lt=1)
    target_modules: Literal["all-linear"] | list[str] = "all-linear"
    use_rslora: bool = False


def lora_spec(options: LoraOptions, parent: Weights | None) -> LoraSpec:
    """The adapter's shape; that of `parent`, where there is one.

    Raises:
        InvalidValue: the options ask for another shape than the parent's.
    """
    if parent is not None:
        return _inherited(options, parent)
    targets = options.target_modules
    return LoraSpec(
        rank=options.rank,
        alpha=options.alpha if options.alpha is not None else 2.0 * options.rank,
        dropout=options.dropout,
        target_modules=targets if targets == "all-linear" else tuple(targets),
        rslora=options.use_rslora,
    )


def _inherited(options: LoraOptions, parent: Weights) -> LoraSpec:
    has = parent.manifest
    if not has.uniform:
        raise InvalidValue(
            f"{parent.name} was brought from elsewhere, and not all of its layers are adapted alike. Training cannot "
            "go on from that.",
            param="continue_from",
        )
    asked_targets = _targets(options, has)
    shape = {
        "rank": (options.rank, has.rank),
        "alpha": (options.alpha if options.alpha is not None else has.alpha, has.alpha),
        "target_modules": (sorted(asked_targets), sorted(set(has.target_modules))),
        "use_rslora": (options.use_rslora, has.rslora),
    }
    for name, (asked, there) in shape.items():
        if name in options.model_fields_set and asked != there:
            raise InvalidValue(
                f"lora.{name} is {_shown(asked)}, while {parent.name} has {_shown(there)}, and training can only be "
                f"continued in the same shape. Leave lora.{name} out.",
                param=f"lora.{name}",
            )
    return LoraSpec(
        rank=has.rank,
        alpha=has.alpha,
        dropout=options.dropout,
        target_modules=has.target_modules,
        rslora=has.rslora,
    )


def _targets(options: LoraOptions, has: Manifest) -> set[str]:
    targets = options.target_modules
    return set(has.base.linear_modules if targets == "all-linear" else targets)


def _shown(value: object) -> str:
    match value:
        case bool():
            return str(value).lower()
        case list():
            return ", ".join(value) or "empty"
        case _:
            return str(value)
