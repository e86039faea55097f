"""What options of several kinds share."""

import json
from typing import Any, Literal

Auto = Literal["auto"]


def from_json(value: Any) -> Any:
    """A form field holds nested options as JSON text. Raises ValueError."""
    if isinstance(value, str) and value.lstrip()[:1] in {"{", "["}:
        try:
            return json.loads(value)
        except ValueError as error:
            raise ValueError(f"is not valid JSON: {error}") from error
    return value
