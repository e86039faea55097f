"""What the headers of a request ask for."""

import pytest

from service.waiting import preferred_wait, prefers_events


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ([], None),
        (["wait=10"], 10),
        (["respond-async, wait=10"], 10),
        (["respond-async", "Wait = 7"], 7),
        (['wait="5"; strict'], 5),
        (["wait=0"], 0),
        (["wait=61"], 60),
        (["wait=999999999"], 60),
        (["wait=3, wait=9"], 3),
        (["wait"], None),
        (["wait=-1"], None),
        (["wait=1.5"], None),
        (["wait=\u0663"], None),
        (["await=10"], None),
    ],
)
def test_a_preferred_wait_is_read_and_bounded(headers, seconds):
    assert preferred_wait(headers) == seconds


@pytest.mark.parametrize(
    ("accept", "events"),
    [
        (None, False),
        ("", False),
        ("*/*", False),
        ("application/json", False),
        ("text/event-stream", True),
        ("Text/Event-Stream; q=0.5", True),
        ("text/event-stream;q=0", False),
        ("text/event-stream;q=high", False),
        ("application/json, text/event-stream", True),
        ("application/json, text/event-stream;q=0.9", False),
        ("application/json;q=0.5, text/event-stream;q=0.9", True),
    ],
)
def test_events_are_streamed_to_those_who_ask_for_them(accept, events):
    assert prefers_events(accept) is events
