"""Every kind of part that vLLM would fetch or decode is refused, wherever in a conversation it is; text never is."""

from typing import Any

import pytest

from adapters.errors import InvalidValue
from service.schemas.media import KINDS, check_media


@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize("place", ["messages", "input", "system"])
def test_a_part_is_known_by_its_type_and_by_its_fields(place: str, kind: str) -> None:
    for part in ({"type": kind}, {kind: "https://example.com"}, {"type": "text", kind: "x"}):
        for value in ([part], [{"role": "user", "content": [part]}], {"content": {"output": part}}):
            with pytest.raises(InvalidValue, match=kind) as caught:
                check_media({place: value})
            assert caught.value.param == place


@pytest.mark.parametrize(
    "part",
    [
        {"type": "text", "text": "image_url"},
        {"type": "input_text", "text": "file"},
        {"role": "assistant", "content": None, "audio": None},
        {"type": "tool_use", "input": {"image_url": "x", "file": "y"}},
        {"tool_calls": [{"function": {"arguments": {"video": 1}}}]},
        {"type": ["image_url"]},
        {"type": "function_call", "arguments": {"document": 1}},
    ],
)
def test_text_and_what_tools_are_told_pass(part: dict[str, Any]) -> None:
    check_media({"messages": [part], "input": [part], "system": [part]})
    check_media({"tools": [{"image_url": "x"}], "metadata": {"file": "x"}, "messages": "image_url"})
