import json
from collections.abc import AsyncIterator
from itertools import pairwise

import pytest
from hypothesis import given, settings, strategies as st

from service.defaults import GUARD
from service.loops import mark, mark_events
from service.relay import whole_events
from tests.support.loops import loops

tokens = st.lists(st.integers(0, 3), max_size=300)


def chunk(reason: str | None, text: str = "", **more: object) -> dict[str, object]:
    return {"object": "chunk", "choices": [{"index": 0, "delta": {"content": text}, "finish_reason": reason}], **more}  # fmt: skip


def events(*chunks: dict[str, object]) -> bytes:
    """As vLLM writes them: no spaces in the JSON."""
    lines = [json.dumps(one, separators=(",", ":")) for one in chunks]
    return "".join(f"data: {line}\n\n" for line in [*lines, "[DONE]"]).encode()


async def pieces(raw: bytes, cuts: list[int]) -> AsyncIterator[bytes]:
    edges = sorted({0, len(raw), *(cut % (len(raw) + 1) for cut in cuts)})
    for start, end in pairwise(edges):
        yield raw[start:end]


async def read(raw: bytes, cuts: list[int], *, stream: bool = True) -> tuple[bytes, int]:
    """What comes of bytes that arrive in pieces, as the relay passes them on, and how many choices looped."""
    count = 0

    def stopped() -> None:
        nonlocal count
        count += 1

    if not stream:
        marked = mark(raw, stopped)
        return marked, count
    passed = [mark_events(one, stopped) async for one in whole_events(b"", pieces(raw, cuts))]
    return b"".join(passed), count


@given(cuts=st.lists(st.integers(0, 10_000), max_size=8))
async def test_a_choice_that_looped_ends_as_one_that_was_cut_off_however_it_arrives(
    cuts: list[int],
) -> None:
    said = chunk(None, 'he said "repetition" {"finish_reason":"repetition"}')
    raw = events(chunk(None, "a"), said, chunk("repetition", stop_reason="repetition_detected"))
    out, count = await read(raw, cuts)
    before, after = raw.split(b"data: "), out.split(b"data: ")
    assert (count, len(after)) == (1, len(before))
    assert [after[n] for n in (0, 1, 2, 4)] == [before[n] for n in (0, 1, 2, 4)]
    [choice] = json.loads(after[3])["choices"]
    assert (choice["finish_reason"], choice["stopped_by"]) == ("length", "repetition_guard")
    assert after[3].endswith(b"\n\n")


@given(raw=st.binary(max_size=200), cuts=st.lists(st.integers(0, 200), max_size=4))
async def test_what_has_not_looped_passes_byte_for_byte(raw: bytes, cuts: list[int]) -> None:
    for stream in (True, False):
        assert await read(raw, cuts, stream=stream) == (raw, 0)


async def test_of_a_whole_answer_only_the_choices_that_looped_are_marked() -> None:
    reasons = ["stop", "repetition", "length", "repetition"]
    raw = json.dumps(
        {"choices": [{"index": n, "finish_reason": one} for n, one in enumerate(reasons)]}
    )
    out, count = await read(raw.encode(), [3], stream=False)
    choices = json.loads(out)["choices"]
    assert [one["finish_reason"] for one in choices] == ["stop", "length", "length", "length"]
    assert [one.get("stopped_by") for one in choices] == [None, "repetition_guard", None, "repetition_guard"]  # fmt: skip
    assert count == 2


@pytest.mark.parametrize(
    "raw",
    [b'data: {"choices": "repetition"}\n\n', b'data: "repetition"\n\n', b': "repetition"\n\n',
     b'data: {"choices": [{"text": "repetition"}, 1]}\n\n', b'data: {"repetition"\n\n'],
)  # fmt: skip
async def test_what_is_no_such_answer_is_left_alone(raw: bytes) -> None:
    assert await read(raw, [7]) == (raw, 0)


# ---- when the engine is told to stop


@settings(max_examples=200)
@given(said=tokens, pattern=st.lists(st.integers(0, 9), min_size=1, max_size=64))
def test_whatever_repeats_itself_is_stopped_within_256_tokens(
    said: list[int], pattern: list[int]
) -> None:
    smallest = next(size for size in range(16, 65) if size % len(pattern) == 0)
    endless = said + pattern * 300
    assert loops(endless[: len(said) + 4 * smallest], **GUARD)
    assert 4 * smallest <= 256


@settings(max_examples=200)
@given(said=tokens, pattern=tokens, times=st.integers(1, 8))
def test_what_is_stopped_ends_in_64_tokens_or_more_that_repeat_themselves(
    said: list[int], pattern: list[int], times: int
) -> None:
    text = said + pattern * times
    if loops(text, **GUARD):
        tails = [(size, text[-4 * size :]) for size in range(16, 65) if 4 * size <= len(text)]
        assert any(
            all(a == b for a, b in zip(tail, tail[size:], strict=False)) for size, tail in tails
        )


@settings(max_examples=10)
@given(start=st.integers(), count=st.integers(0, 300))
def test_what_never_says_the_same_twice_is_never_stopped(start: int, count: int) -> None:
    text = list(range(start, start + count))
    assert not any(loops(text[:length], **GUARD) for length in range(count))


@pytest.mark.parametrize(
    "text",
    [
        ["0", ","] * 31,  # short lists of the same thing are no loop
        [*"|---"] * 15,
        [word for row in range(40) for word in ("row", row, "is", "fine", "\n")],  # a table
    ],
)
def test_what_people_write_is_not_stopped(text: list[object]) -> None:
    assert not any(loops(text[:length], **GUARD) for length in range(len(text) + 1))
