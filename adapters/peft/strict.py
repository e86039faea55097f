"""JSON as two readers cannot read it differently: no key twice, no NaN, no half of a surrogate pair."""

import json
from typing import Any


def parse(raw: bytes) -> dict[str, Any]:
    """The object that the bytes are. Raises ValueError, which says what is wrong."""
    try:
        found = json.loads(
            raw.decode(), object_pairs_hook=_once, parse_constant=_no_constant, parse_float=_finite
        )
        if rb"\ud" in raw.lower():
            _expect_whole_text(found)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if not isinstance(found, dict):
        raise ValueError("it must be an object")  # noqa: TRY004  one kind of error for what is read
    return found


def _expect_whole_text(found: Any) -> None:
    """Readers in other languages than Python refuse what cannot be encoded."""
    try:
        json.dumps(found, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise ValueError("it has half a surrogate pair") from error


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"it has the key {key!r:.80} twice")
        found[key] = value
    return found


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _finite(text: str) -> float:
    value = float(text)
    if value in {float("inf"), float("-inf")}:
        raise ValueError(f"{text:.40} is out of range")
    return value
