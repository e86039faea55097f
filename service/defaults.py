"""What a request leaves open, filled in: by its adapter, its version, its base model, in this order.

A preset counts where it is named: what is given beside it or by anyone before wins over it, and it wins over what comes
after. Only the first that is named counts.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final

from adapters.errors import InvalidValue
from adapters.sampling import PRESETS

#: For the engine, which sees tokens: a stretch of 16 to 64 that comes four times in a row ends the answer. So whatever
#: repeats itself every 64 tokens or sooner ends it after 64 to 256 tokens of that, and nothing else does.
GUARD: Final[Mapping[str, int]] = {
    "min_pattern_size": 16,
    "max_pattern_size": 64,
    "min_count": 4,
}


@dataclass(frozen=True, slots=True)
class Filled:
    """What goes to the engine, and whether an answer that loops is to be stopped and marked."""

    body: dict[str, Any]
    guarded: bool


def fill(known: Collection[str], *layers: Mapping[str, Any]) -> Filled:
    """Put the request, which comes first, and its defaults together. Null says nothing, as at OpenAI.

    Only `known` fields are filled in, those that the endpoint has.

    Raises:
        InvalidValue: the request names no preset that there is, or a `repetition_guard` that is not true or false.
    """
    _check(layers[0])
    named = next((one for one in layers if one.get("preset") is not None), {})
    body: dict[str, Any] = {}
    for layer in reversed(layers):
        if layer is named:
            body |= PRESETS[layer["preset"]]
        body |= {name: value for name, value in layer.items() if value is not None}
    if layers[0].get("max_completion_tokens") is not None and layers[0].get("max_tokens") is None:
        body.pop("max_tokens", None)  # the same thing by another name
    body = {name: value for name, value in body.items() if name in known}
    body.pop("preset", None)
    guarded = bool(body.pop("repetition_guard", False))
    if guarded:
        body.setdefault("repetition_detection", dict(GUARD))
    return Filled(body, guarded)


def _check(request: Mapping[str, Any]) -> None:
    preset, guard = request.get("preset"), request.get("repetition_guard")
    if preset is not None and (not isinstance(preset, str) or preset not in PRESETS):
        known = ", ".join(PRESETS)
        raise InvalidValue(
            f"There is no preset {preset!r:.80}. There are: {known}.", param="preset"
        )
    if guard is not None and not isinstance(guard, bool):
        raise InvalidValue("'repetition_guard' is true or false.", param="repetition_guard")
