"""The tokenizer process: a real one, with a tiny tokenizer."""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from adapters.errors import InvalidDataset, Overloaded, Unavailable
from service.tokens.messages import Bar, Count, Counted, Show
from service.tokens.process import TokenProcess
from tests.support.tiny_tokenizer import write_speaker

ROWS = [{"input": "hi", "target": "a" * n} for n in (1, 2, 30, 30)]
#: <|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n: special tokens are one, everything else is bytes.
PROMPT = 1 + len("user\nhi") + 1 + 1 + 1 + len("assistant\n")


@pytest.fixture
async def process():
    process = TokenProcess(idle_seconds=60)
    yield process
    await process.close()


@pytest.fixture
def speaker(tmp_path: Path) -> Path:
    write_speaker(tmp_path / "model")
    return tmp_path / "model"


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def mapped(pid: int) -> str:
    """The files that a process has in its memory."""
    return Path(f"/proc/{pid}/maps").read_text()


def count(speaker: Path, data: Path, **changes: Any) -> Count:
    limits = {"max_seq_length": 50, "most_rows": 100, "most_seconds": 60.0}
    return Count(directory=speaker, data=data, **(limits | changes))


def show(speaker: Path, data: Path, **changes: Any) -> Show:
    limits = {"max_seq_length": 50, "rows": 20, "most_tokens": 1000}
    return Show(directory=speaker, data=data, **(limits | changes))


async def test_tokens_are_counted_as_training_takes_them(process, speaker, tmp_path):
    counted = await process.ask(count(speaker, write(tmp_path / "t.jsonl", ROWS)))
    # A reply is trained through its end-of-turn token. The last row says what the third said.
    assert (counted.rows, counted.complete, counted.too_long, counted.samples) == (3, True, 1, 2)
    assert counted.trained_tokens == 2 + 3
    assert counted.tokens == 2 * PROMPT + 2 + 3
    assert counted.longest == PROMPT + 31
    assert counted.histogram == (Bar(up_to=32, rows=2), Bar(up_to=64, rows=1))


async def test_a_large_file_is_looked_at_in_part(process, speaker, tmp_path):
    data = write(tmp_path / "t.jsonl", ROWS)
    two = await process.ask(count(speaker, data, most_rows=2))
    assert (two.rows, two.complete) == (2, False)
    three = await process.ask(count(speaker, data, most_rows=3))
    assert (three.rows, three.complete) == (3, True)
    hurried = await process.ask(count(speaker, data, most_seconds=0.0))
    assert (hurried.rows, hurried.complete) == (1, False)


async def test_rows_are_shown_token_by_token_with_what_is_trained(process, speaker, tmp_path):
    data = write(tmp_path / "t.jsonl", ROWS)
    first, second = (await process.ask(show(speaker, data, rows=2))).sequences
    assert (first.line, first.side, first.num_tokens, first.num_trained_tokens) == (
        1,
        None,
        PROMPT + 2,
        2,
    )
    [span] = first.spans
    assert (span.text, span.weight) == ("a<|im_end|>", 1.0)
    assert (span.start, span.stop) == (PROMPT, PROMPT + 2)
    assert "".join(first.tokens).endswith("<|im_start|>assistant\na<|im_end|>")
    assert len(first.tokens) == len(first.input_ids) == first.num_tokens
    assert second.line == 2
    [cut] = (await process.ask(show(speaker, data, rows=1, most_tokens=5))).sequences
    assert (len(cut.input_ids), cut.num_tokens, cut.spans) == (5, PROMPT + 2, ())


async def test_what_the_template_refuses_is_an_error_with_its_line(process, tmp_path):
    write_speaker(tmp_path / "model", template="{{ raise_exception('no') }}")
    data = write(tmp_path / "t.jsonl", ROWS)
    for question in (count(tmp_path / "model", data), show(tmp_path / "model", data)):
        with pytest.raises(InvalidDataset, match=r"Line 1: .* no"):
            await process.ask(question)


async def test_a_turn_may_end_in_what_the_config_alone_names(process, tmp_path):
    template = "{% for m in messages %}{{ m['content'] }}<|endoftext|>{% endfor %}"
    write_speaker(tmp_path / "model", template=template, eos_token_id=[0, 7])
    [one] = (
        await process.ask(show(tmp_path / "model", write(tmp_path / "t.jsonl", ROWS[:1])))
    ).sequences
    assert one.spans[0].text == "a<|endoftext|>"


async def test_code_in_rows_is_text_and_no_template(process, speaker, tmp_path):
    for code in (
        "{% for i in range(10**9) %}x{% endfor %}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{% set x = 'a' * 10**9 %}{{ x * 10**9 }}",
        "{{ cycler.__init__.__globals__.os.system('touch owned') }}",
    ):
        data = write(tmp_path / "t.jsonl", [{"input": code, "target": code}])
        [shown] = (await process.ask(show(speaker, data, max_seq_length=500))).sequences
        assert shown.num_tokens == PROMPT - len("hi") + 2 * len(code) + 1


async def test_one_that_was_killed_is_started_again(process, speaker, tmp_path):
    question = count(speaker, write(tmp_path / "t.jsonl", ROWS))
    before = await process.ask(question)
    first = process._process
    first.kill()
    await first.wait()
    assert await process.ask(question) == before
    assert process._process.pid != first.pid


async def test_it_goes_when_nobody_asks(speaker, tmp_path):
    process = TokenProcess(idle_seconds=0.05)
    await process.ask(count(speaker, write(tmp_path / "t.jsonl", ROWS)))
    child = process._process
    assert child.returncode is None
    assert await asyncio.wait_for(child.wait(), 10) == 0
    assert process._process is None
    await process.close()


async def test_questions_are_answered_one_after_the_other(process, speaker, tmp_path):
    data = write(tmp_path / "t.jsonl", ROWS)
    asked = [process.ask(count(speaker, data, most_rows=n)) for n in (1, 2, 3)]
    assert [answer.rows for answer in await asyncio.gather(*asked)] == [1, 2, 3]


async def test_only_so_many_may_wait(process, speaker, tmp_path):
    data = write(tmp_path / "t.jsonl", ROWS)
    asked = [process.ask(count(speaker, data)) for _ in range(17)]
    answers = await asyncio.gather(*asked, return_exceptions=True)
    assert [type(answer) for answer in answers] == [Counted] * 16 + [Overloaded]
    assert (await process.ask(count(speaker, data))).rows == 3


async def test_a_file_that_is_gone_is_no_reason_to_die(process, speaker, tmp_path):
    with pytest.raises(InvalidDataset, match="cannot be read any more"):
        await process.ask(count(speaker, tmp_path / "gone.jsonl"))
    child = process._process
    await process.ask(count(speaker, write(tmp_path / "t.jsonl", ROWS)))
    assert process._process is child


async def test_who_leaves_does_not_leave_an_answer_for_the_next(process, speaker, tmp_path):
    data = write(tmp_path / "t.jsonl", ROWS)
    await process.ask(count(speaker, data))
    leaving = asyncio.create_task(process.ask(count(speaker, data, most_rows=1)))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    assert (await process.ask(count(speaker, data, most_rows=2))).rows == 2


@pytest.mark.parametrize(
    ("program", "says"),
    [("raise SystemExit(3)", "dies"), ("import time; time.sleep(60)", "within 0.5 seconds")],
)
async def test_one_that_does_not_answer_is_told_of(tmp_path, program, says):
    process = TokenProcess(
        idle_seconds=60,
        patience=0.5 if "sleep" in program else 30,
        command=(sys.executable, "-c", program),
    )
    with pytest.raises(Unavailable, match=says):
        await process.ask(count(tmp_path, tmp_path))
    assert process._process is None
    await process.close()


async def test_it_never_loads_torch(process, speaker, tmp_path):
    await process.ask(count(speaker, write(tmp_path / "t.jsonl", ROWS)))
    maps = mapped(process._process.pid)
    assert "tokenizers" in maps
    assert "libtorch" not in maps
