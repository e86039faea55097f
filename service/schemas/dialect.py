"""`POST /v1/fine_tuning/jobs`: what OpenAI's clients send, in the words of `POST /finetune`.

The numbers may stand in three places: at the top (the SDK's `extra_body`), in `hyperparameters` (the older form) and in
`method.<type>.hyperparameters` (the newer one). They mean the same everywhere.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from adapters.errors import InvalidRequest, InvalidValue, UnknownField, UnsupportedMethod
from adapters.names import check_adapter_name
from service.schemas.finetune import SYNONYMS, FinetuneOptions, parse_options
from service.schemas.lora import LoraOptions
from service.schemas.method import METHODS

_WHERE: Final = "POST /v1/fine_tuning/jobs"
_LONGEST_SUFFIX: Final = 64
_LONGEST_NAME: Final = 63
#: Options that are no numbers of the training; they stand at the top only.
_TOP: Final = frozenset(
    {
        "name",
        "base_model",
        "method",
        "continue_from",
        "training_file",
        "validation_file",
        "metadata",
        "integrations",
        "priority",
    }
)
_NUMBERS: Final = frozenset(FinetuneOptions.model_fields) - _TOP
#: Other clients' names for parts of `lora`, and for other numbers.
_LORA: Final[Mapping[str, str]] = {
    "lora_r": "rank",
    "lora_rank": "rank",
    "lora_alpha": "alpha",
    "lora_dropout": "dropout",
}
_OTHER: Final[Mapping[str, str]] = {
    "context_length": "max_seq_length",
    "epochs": "n_epochs",
    "loraplus_lr_ratio": "lora_plus_ratio",
}
_IN_HYPERPARAMETERS: Final = sorted(_NUMBERS | _LORA.keys() | _OTHER.keys())
_AT_TOP: Final = sorted(
    {*FinetuneOptions.model_fields, *SYNONYMS, *_LORA, *_OTHER, "hyperparameters"}
)


def parse_job_request(body: dict[str, Any], base_models: Sequence[str]) -> FinetuneOptions:
    """The options of a request of OpenAI's clients. An unknown `model` becomes `continue_from`: look it up.

    Raises:
        InvalidRequest: `model` or `training_file` is missing.
        UnknownField: a name that does not exist; the message suggests the nearest.
        InvalidValue: a value out of range, or two places that contradict each other.
        UnsupportedMethod: `reinforcement`.
    """
    top = {name: value for name, value in body.items() if value is not None}
    _check_names(top, _AT_TOP, "")
    for name in ("model", "training_file"):
        if not isinstance(top.get(name), str) or not top[name]:
            raise InvalidRequest(f"'{name}' is required, as text.", param=name)
    numbers = _Numbers()
    numbers.add(top.pop("hyperparameters", None), "hyperparameters")
    method = top.pop("method", None)
    if method is not None:
        top["method"] = _take_method(method, numbers)
    for name in [name for name in top if name not in {*_TOP, "model", "suffix"}]:
        numbers.put(name, top.pop(name), name)
    options = _named(top, base_models)
    return parse_options(options | numbers.options())


def legal_name(suffix: str) -> str:
    """The adapter name that a suffix becomes. Raises InvalidValue."""
    if len(suffix) > _LONGEST_SUFFIX:
        raise InvalidValue(
            f"suffix has at most {_LONGEST_SUFFIX} characters, not {len(suffix)}.", param="suffix"
        )
    name = re.sub(r"[^a-z0-9._-]", "-", suffix.lower()).lstrip("._-")[:_LONGEST_NAME]
    if not name:
        raise InvalidValue(
            f"suffix {suffix!r} has no letter or digit of ASCII to make a name of.", param="suffix"
        )
    return name


class _Numbers:
    """The numbers of a request, from wherever they stand; "auto" and null say nothing."""

    def __init__(self) -> None:
        self._found: dict[str, tuple[Any, str]] = {}
        self._lora: dict[str, tuple[Any, str]] = {}

    def add(self, given: Any, path: str) -> None:
        """Take an object of them. Raises InvalidValue, UnknownField."""
        if given is None:
            return
        if not isinstance(given, dict):
            raise InvalidValue(f"{path} must be an object, not {given!r:.80}.", param=path)
        _check_names(given, _IN_HYPERPARAMETERS, path)
        for name, value in given.items():
            self.put(name, value, f"{path}.{name}")

    def put(self, name: str, value: Any, path: str) -> None:
        """Take one. Raises InvalidValue where it contradicts another place."""
        if value is None or value == "auto":
            return
        if name == "lora":
            self._put_lora(value, path)
        elif name in _LORA:
            _put(self._lora, _LORA[name], value, path)
        else:
            _put(self._found, _OTHER.get(name, name), value, path)

    def options(self) -> dict[str, Any]:
        """All of them, in the words of `POST /finetune`."""
        options = {name: value for name, (value, _) in self._found.items()}
        lora = {name: value for name, (value, _) in self._lora.items()}
        return options | ({"lora": lora} if lora else {})

    def _put_lora(self, value: Any, path: str) -> None:
        if value is True:  # adapters are all that is trained here
            return
        if not isinstance(value, dict):
            raise InvalidValue(
                f"{path} is {value!r:.80}; only LoRA adapters are trained here: true, or an object "
                f"with {', '.join(LoraOptions.model_fields)}.",
                param=path,
            )
        for name, part in value.items():
            if part is not None and part != "auto":
                _put(self._lora, name, part, f"{path}.{name}")


def _put(found: dict[str, tuple[Any, str]], name: str, value: Any, path: str) -> None:
    before, where = found.setdefault(name, (value, path))
    if before != value:
        raise InvalidValue(
            f"{path} is {value!r:.80}, and {where} is {before!r:.80}. Give it once.", param=path
        )


def _take_method(method: Any, numbers: _Numbers) -> str:
    """The method's name; what its long form holds goes to the numbers."""
    long_form = method if isinstance(method, dict) else {"type": method}
    kind = long_form.get("type")
    if kind == "reinforcement":
        raise UnsupportedMethod(
            "The method 'reinforcement' is not trained here; 'supervised' and 'dpo' are.",
            param="method",
        )
    if kind not in METHODS:
        raise InvalidValue(
            f"method.type must be {' or '.join(map(repr, METHODS))}, not {kind!r:.80}.",
            param="method.type",
        )
    _check_names(long_form, ["type", *METHODS, "reinforcement"], "method")
    for name, value in long_form.items():
        if name not in {"type", kind} and value is not None:
            raise InvalidValue(
                f"method.{name} is given, while method.type is '{kind}'. Remove one of them.",
                param=f"method.{name}",
            )
    own = long_form.get(kind)
    if own is not None:
        if not isinstance(own, dict):
            raise InvalidValue(f"method.{kind} must be an object.", param=f"method.{kind}")
        _check_names(own, ["hyperparameters"], f"method.{kind}")
        numbers.add(own.get("hyperparameters"), f"method.{kind}.hyperparameters")
    return str(kind)


def _named(top: dict[str, Any], base_models: Sequence[str]) -> dict[str, Any]:
    """`model` and `suffix` in our words."""
    model, suffix = top.pop("model"), top.pop("suffix", None)
    base = _base_model(model, base_models)
    if base is None:
        _say(top, "continue_from", model, "model")
    else:
        _say(top, "base_model", base, "model")
    if suffix:
        if not isinstance(suffix, str):
            raise InvalidValue(f"suffix must be text, not {suffix!r:.80}.", param="suffix")
        try:
            name = check_adapter_name(legal_name(suffix), base_models=list(base_models))
        except InvalidValue as error:
            raise InvalidValue(error.message, param="suffix") from error
        _say(top, "name", name, "suffix")
    return top


def _say(top: dict[str, Any], name: str, value: str, path: str) -> None:
    if top.setdefault(name, value) != value:
        raise InvalidValue(
            f"{path} means the {name} {value!r:.80}, and {name} is {top[name]!r:.80}. Give it once.",
            param=path,
        )


def _base_model(model: str, base_models: Sequence[str]) -> str | None:
    """The base model of that id, or whose id ends so after a slash."""
    if model in base_models:
        return model
    return next((base for base in base_models if base.rpartition("/")[2] == model), None)


def _check_names(found: Mapping[str, Any], known: Sequence[str], path: str) -> None:
    for name in found:
        if name not in known:
            prefix = f"{path}." if path else ""
            raise UnknownField.named(
                f"{prefix}{name}",
                [prefix + one for one in known],
                where=f"'{path}'" if path else _WHERE,
            )
