import itertools
import random

from hypothesis import given, strategies as st

from cli.sse import ServerEvent, read_events

STREAM = (
    "retry: 3000\n\n"
    ": keep-alive\n\n"
    'id: 1\nevent: status\ndata: {"message": "grüß dich"}\n\n'
    "id: 2\r\nevent: metrics\r\ndata: one\r\ndata: two\r\n\r\n"
    "data:no space\r\rid\nevent: done\ndata:  two spaces\n\n"
).encode()
EVENTS = [
    ServerEvent("status", '{"message": "grüß dich"}', "1"),
    ServerEvent("metrics", "one\ntwo", "2"),
    ServerEvent("message", "no space", "2"),
    ServerEvent("done", " two spaces", ""),
]


def cut(stream: bytes, places: list[int]) -> list[bytes]:
    ends = [0, *sorted(places), len(stream)]
    return [stream[a:b] for a, b in itertools.pairwise(ends)]


@given(st.lists(st.integers(0, len(STREAM))))
def test_any_chunking_gives_the_same_events(places):
    assert list(read_events(cut(STREAM, places))) == EVENTS


def test_byte_by_byte_gives_the_same_events():
    assert list(read_events(bytes([byte]) for byte in STREAM)) == EVENTS


lines = st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]), min_size=1)


@given(st.lists(st.tuples(lines, lines)), st.integers(0, 2**32))
def test_what_was_written_is_read_whatever_the_text(pairs, seed):
    written = "".join(
        f"id: {i}\nevent: {name}\ndata: {data}\n\n" for i, (name, data) in enumerate(pairs)
    )
    stream = written.encode()
    places = random.Random(seed).choices(range(len(stream) + 1), k=7)
    assert [(e.event, e.data, e.id) for e in read_events(cut(stream, places))] == [
        (name, data, str(i)) for i, (name, data) in enumerate(pairs)
    ]


def test_an_event_that_was_cut_off_is_dropped():
    assert list(read_events([b"data: whole\n\ndata: ha"])) == [ServerEvent("message", "whole", "")]
    assert list(read_events([b"data: no blank line\n"])) == []


def test_a_last_line_that_ends_in_a_carriage_return_is_complete():
    assert list(read_events([b"data: x\r\r"])) == [ServerEvent("message", "x", "")]
