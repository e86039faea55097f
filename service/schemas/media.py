"""Pictures, sounds, films and files in a conversation: refused, before an engine fetches or decodes them.

Base models here read text. vLLM would fetch a URL of a request from where it runs, beside everything that is not meant
to be seen, and decode whatever it gets in the process that answers everybody.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from adapters.errors import InvalidValue

#: Where parts of a conversation may be.
_PLACES = ("messages", "input", "system")
#: What a part that is no text calls itself, in the three dialects and in vLLM's own words.
KINDS = frozenset(
    {
        "audio",
        "audio_embeds",
        "audio_url",
        "document",
        "file",
        "image",
        "image_embeds",
        "image_pil",
        "image_url",
        "input_audio",
        "input_file",
        "input_image",
        "input_video",
        "prompt_embeds",
        "vision_chunk",
        "video",
        "video_embeds",
        "video_url",
    }
)
#: Where tools keep what they were told and said, which is data and no part of the conversation.
_DATA = frozenset({"arguments", "tool_calls", "function_call"})
#: In a part of type `tool_use`, Anthropic's word for the arguments.
_TOOL_USE = "tool_use"


def check_media(body: Mapping[str, Any]) -> None:
    """Raise InvalidValue for the first part that is no text.

    A part's fields count as well as its type: vLLM goes by them where there is no type, and where there is a `uuid`.
    """
    for place in _PLACES:
        for part in _parts(body.get(place)):
            found = {name for name in KINDS & part.keys() if part[name] is not None}
            kind = part.get("type")
            if isinstance(kind, str) and kind in KINDS:
                found.add(kind)
            if found:
                raise InvalidValue(
                    f"'{place}' has a part of type '{min(found)}'. The models of this server read text, and it fetches "
                    "nothing.",
                    param=place,
                )


def _parts(value: Any) -> Iterator[dict[str, Any]]:
    """Every object in it that could be a part."""
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, list):
            waiting += one
        elif isinstance(one, dict):
            yield one
            data = _DATA | {"input"} if one.get("type") == _TOOL_USE else _DATA
            waiting += [inner for name, inner in one.items() if name not in data]
