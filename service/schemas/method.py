"""`method`: in one word or in OpenAI's long form, and what it comes to with the data at hand."""

from collections.abc import Iterable, Mapping
from typing import Any, Final, Literal, TypeAlias

from adapters.errors import InvalidValue, UnknownField
from adapters.spec import (
    Dpo,
    Method,
    OptimizerSpec,
    Supervised,
)
from service.schemas.fields import Auto, from_json

MethodName: TypeAlias = Literal["supervised", "dpo"]

METHODS: Final[tuple[MethodName, ...]] = ("supervised", "dpo")
#: OpenAI's bound.
_MOST_BETA: Final = 2
_COMMON: Final = ("n_epochs", "batch_size", "learning_rate_multiplier")
#: What OpenAI's `hyperparameters` of each method may hold. Our own options stand beside `method`.
_HYPERPARAMETERS: Final[Mapping[str, tuple[str, ...]]] = {
    "supervised": _COMMON,
    "dpo": (*_COMMON, "beta"),
}


def spread_method(options: dict[str, Any]) -> dict[str, Any]:
    """The options with `method` as one word: what its long form holds goes beside it.

    Raises:
        InvalidValue: the long form contradicts itself, or an option beside it.
        UnknownField: a name in the long form that does not exist.
    """
    try:
        method = from_json(options.get("method"))
    except ValueError as error:
        raise InvalidValue(f"method: {error}.", param="method") from error
    if not isinstance(method, dict):
        return options
    kind = _kind(method)
    there = f"method.{kind}"
    own = _object(method.get(kind), there)
    _check_names(own, ["hyperparameters"], there)
    there += ".hyperparameters"
    given = _object(own.get("hyperparameters"), there)
    _check_names(given, _HYPERPARAMETERS[kind], there)
    told = {name: value for name, value in given.items() if value not in (None, "auto")}
    for name, value in told.items():
        beside = options.get(name, "auto")
        if str(beside) not in {"auto", str(value)}:
            raise InvalidValue(
                f"{name} is {beside}, and {value} in '{there}'. Give it once.", param=name
            )
    return {**options, **told, "method": kind}


def resolve_method(asked: MethodName | None, beta: float | Auto, *, compares: bool) -> Method:
    """The method that was asked for, or the one that the rows are for.

    Raises:
        InvalidValue: the rows are not for that method, or `beta` is not, or it is out of range.
    """
    if (asked or "dpo") == "dpo" and compares:
        return Dpo(beta=_checked_beta(beta))
    if asked == "dpo":
        raise InvalidValue(
            "The method 'dpo' needs rows that compare two replies (prompt, chosen, rejected), and the training "
            "file has none. Leave 'method' out to train on what is there.",
            param="method",
        )
    if compares:
        raise InvalidValue(
            "The rows of the training file compare two replies, which is for the method 'dpo'. For 'supervised' "
            "leave the rejected replies out: prompt and completion.",
            param="method",
        )
    if beta != "auto":
        raise InvalidValue(
            "beta is for the method 'dpo', which needs rows that compare two replies; this job is 'supervised'.",
            param="beta",
        )
    return Supervised()


def usual_rate(method: Method) -> float:
    """The learning rate where none is given. Both are what TRL advises for LoRA, ten times that of full fine-tuning."""
    match method:
        case Supervised():
            return OptimizerSpec().learning_rate
        case Dpo():
            return 5e-6


def _checked_beta(beta: float | Auto) -> float:
    if beta == "auto":
        return Dpo().beta
    if not 0 < beta <= _MOST_BETA:
        raise InvalidValue(
            f"beta must be above 0 and at most {_MOST_BETA}, not {beta}.", param="beta"
        )
    return beta


def _kind(method: dict[str, Any]) -> str:
    _check_names(method, ["type", *_HYPERPARAMETERS], "method")
    kind = method.get("type")
    if not isinstance(kind, str) or kind not in _HYPERPARAMETERS:
        raise InvalidValue(
            f"method.type must be {_alternatives()}, not {kind!r:.80}.", param="method.type"
        )
    for name in _HYPERPARAMETERS:
        if name != kind and method.get(name) is not None:
            raise InvalidValue(
                f"method.{name} is given, while method.type is '{kind}'. Remove one of them.",
                param=f"method.{name}",
            )
    return kind


def _alternatives() -> str:
    return " or ".join(f"'{name}'" for name in _HYPERPARAMETERS)


def _object(value: Any, path: str) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InvalidValue(f"{path} must be an object, not {value!r:.80}.", param=path)
    return value


def _check_names(found: dict[str, Any], known: Iterable[str], path: str) -> None:
    for name in found.keys() - set(known):
        raise UnknownField.named(
            f"{path}.{name}", [f"{path}.{one}" for one in known], where=f"'{path}'"
        )
