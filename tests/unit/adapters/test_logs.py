import json
import logging
import sys

from adapters import logs
from adapters.logs import JsonFormatter


def line(message: str, *arguments: object, failed: bool = False) -> dict[str, object]:
    info = sys.exc_info() if failed else None
    record = logging.LogRecord("trainer", logging.INFO, "-", 1, message, arguments, info)
    text = JsonFormatter("rank 1 ").format(record)
    assert "\n" not in text
    told: dict[str, object] = json.loads(text)
    return told


def test_a_line_says_when_how_grave_who_and_what() -> None:
    told = line("two\nlines, %d", 7)
    assert told.pop("time")
    expected = {"level": "info", "logger": "trainer", "message": "two\nlines, 7"}
    assert told == expected | {"process": "rank 1"}


def test_facts_are_those_of_the_innermost_context_and_go_with_it() -> None:
    logs.note(lost="nobody listens")
    with logs.about(request_id="a"):
        logs.note(tenant="acme")
        with logs.about(request_id="b"):
            assert line("x")["request_id"] == "b"
        assert (line("x")["request_id"], line("x")["tenant"]) == ("a", "acme")
    assert "request_id" not in line("x")
    assert "lost" not in line("x")


def test_a_line_about_a_job_has_its_id() -> None:
    assert line("claimed %s, attempt 2", "ftjob-7p4lURel")["job_id"] == "ftjob-7p4lURel"
    assert "job_id" not in line("claimed nothing")


def test_an_error_brings_its_traceback() -> None:
    try:
        int("odd")
    except ValueError:
        told = line("it went wrong", failed=True)
    assert "ValueError: invalid literal" in str(told["exception"])
