"""What errors say of this machine, and how much of a request they repeat: nothing, and little."""

import json

import pytest

from adapters.errors import InvalidValue, UnknownField
from service.errors import discreet, engine_error_body, envelope


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("No adapter at /srv/graft/artifacts/versions/ab12.", "No adapter at (a path)"),
        (
            "cannot identify <_io.BytesIO object at 0x7f3a2b4c5d6e>",
            "cannot identify <_io.BytesIO object at 0x...>",
        ),
        ("boom\nTraceback (most recent call last):\n  File ...", "boom"),
        ("Traceback (most recent call last):\n  x", "The engine failed."),
        ("see /v1/chat/completions/render", "see /v1/chat/completions/render"),
        ("n must be 1/2 or and/or 3/4", "n must be 1/2 or and/or 3/4"),
        ("read https://docs.example/a/b/c", "read https://docs.example/a/b/c"),
        ("temperature must be in [0, 2], got 0x10", "temperature must be in [0, 2], got 0x10"),
    ],
)
def test_an_engines_words_are_kept_and_its_secrets_are_not(said: str, told: str) -> None:
    assert discreet(said) == told


def test_an_engines_error_is_discreet_on_the_wire() -> None:
    raw = json.dumps({"error": {"message": "no file /home/graft/models/m/x.json", "code": 500}})
    body = json.loads(engine_error_body(raw.encode(), 500))
    assert body["error"]["message"] == "no file (a path)"


def test_little_of_a_long_request_is_repeated() -> None:
    error = envelope(InvalidValue("x" * 1_000_000, param="y" * 1_000_000))["error"]
    assert len(error["message"]) < 5000
    assert len(error["param"]) < 500


def test_a_megabyte_of_a_name_is_compared_with_nothing() -> None:
    error = UnknownField.named("x" * 10_000_000, ["messages"], where="the request")
    assert len(error.message) < 1000
    assert UnknownField.named("mesages", ["messages"], where="x").message.endswith("'messages'?")
