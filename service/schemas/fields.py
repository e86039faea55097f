"""What options of several kinds share."""

import json
from collections.abc import Mapping
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ValidationError

from adapters.errors import InvalidValue, UnknownField

Auto = Literal["auto"]

Fields = TypeVar("Fields", bound=BaseModel)


def checked(model: type[Fields], fields: Mapping[str, Any], *, where: str) -> Fields:
    """The fields of a request to `where`, as `model` has them.

    Raises:
        UnknownField: a name that does not exist; the message suggests the nearest.
        InvalidValue: a field that is missing, or a value that it may not have.
    """
    known = list(model.model_fields)
    for name in fields:
        if name not in known:
            raise UnknownField.named(name, known, where=where)
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
    field = ".".join(str(part) for part in first["loc"])
    if first["type"] == "missing":
        raise InvalidValue(f"{where} needs '{field}'.", param=field)
    if first["type"] == "extra_forbidden":
        raise UnknownField(f"Unknown field '{field}' in {where}.", param=field)
    raise InvalidValue(
        f"{field or where}: {first['msg']} (got {first['input']!r:.80}).", param=field or None
    )


def from_json(value: Any) -> Any:
    """A form field holds nested options as JSON text. Raises ValueError."""
    if isinstance(value, str) and value.lstrip()[:1] in {"{", "["}:
        try:
            return json.loads(value)
        except ValueError as error:
            raise ValueError(f"is not valid JSON: {error}") from error
    return value
