"""Rows of a file in tokens: counted, or shown. Duplicates are left out, as training leaves them out."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby, islice, pairwise
from pathlib import Path
from typing import Any, Literal, TypeAlias

from adapters.datasets import read_examples
from adapters.datasets.examples import Comparison, Example, fingerprint
from adapters.datasets.rendering import RenderedRow, Renderer
from service.tokens.messages import Bar, Count, Counted, Preview, Show, Shown, Span

_SHORTEST_BAR = 16
_SIDES: tuple[Literal["chosen", "rejected"], ...] = ("chosen", "rejected")
Clock: TypeAlias = Callable[[], float]


def count(question: Count, renderer: Renderer, clock: Clock = time.monotonic) -> Counted:
    """How many tokens there are. Holds one row at a time, and a mark for each that it has seen.

    Raises:
        InvalidDataset: a row cannot be rendered.
    """
    tally, end = _Tally(question.max_seq_length), clock() + question.most_seconds
    for example in distinct(question.data):
        if tally.rows == question.most_rows or (tally.rows and clock() > end):
            return tally.counted(complete=False)
        tally.add([row for sample in renderer.samples(example) for row in sample], _size(example))
    return tally.counted(complete=True)


def show(question: Show, renderer: Renderer, tokenizer: Any) -> Preview:
    """The first rows, token by token. Raises InvalidDataset as `count`."""
    found: list[Shown] = []
    for example in islice(distinct(question.data), question.rows):
        rows = [row for sample in renderer.samples(example) for row in sample]
        sides = _SIDES if isinstance(example, Comparison) else [None] * len(rows)
        for side, row in zip(sides, rows, strict=True):
            found.append(_shown(example.line, side, row, question, tokenizer))
    return Preview(sequences=tuple(found))


def distinct(path: Path) -> Iterator[Example]:
    """Every example of a checked file that says something new."""
    seen: set[bytes] = set()
    for example in read_examples(path):
        mark = fingerprint(example)
        if mark not in seen:
            seen.add(mark)
            yield example


class _Tally:
    """What is counted. `per_sample` sequences are one sample."""

    def __init__(self, max_seq_length: int) -> None:
        self._max_seq_length = max_seq_length
        self.rows = 0
        self._too_long = self._tokens = self._trained = self._samples = 0
        self._lengths: list[int] = []

    def add(self, sequences: Sequence[RenderedRow], per_sample: int) -> None:
        """A row, and the sequences that it becomes."""
        longest = max(len(sequence.tokens) for sequence in sequences)
        self.rows += 1
        self._lengths.append(longest)
        if longest > self._max_seq_length:
            self._too_long += 1
            return
        self._samples += len(sequences) // per_sample
        for sequence in sequences:
            self._tokens += len(sequence.tokens)
            self._trained += _trained(sequence)

    def counted(self, *, complete: bool) -> Counted:
        return Counted(
            rows=self.rows,
            complete=complete,
            too_long=self._too_long,
            tokens=self._tokens,
            trained_tokens=self._trained,
            samples=self._samples,
            longest=max(self._lengths, default=0),
            histogram=histogram(self._lengths),
        )


def histogram(lengths: Iterable[int]) -> tuple[Bar, ...]:
    """Bars that double, from the first that has a row to the last."""
    found = list(lengths)
    if not found:
        return ()
    edges = [0, _SHORTEST_BAR]
    while edges[-1] < max(found):
        edges.append(2 * edges[-1])
    bars = [
        Bar(up_to=high, rows=sum(low < length <= high for length in found))
        for low, high in pairwise(edges)
    ]
    first = next(at for at, bar in enumerate(bars) if bar.rows)
    return tuple(bars[first:])


def _size(example: Example) -> int:
    return len(_SIDES) if isinstance(example, Comparison) else 1


def _trained(row: RenderedRow) -> int:
    return len(row.weights) - row.weights.count(0.0)


def _shown(
    line: int,
    side: Literal["chosen", "rejected"] | None,
    row: RenderedRow,
    question: Show,
    tokenizer: Any,
) -> Shown:
    ids = row.tokens[: question.most_tokens]
    return Shown(
        line=line,
        side=side,
        num_tokens=len(row.tokens),
        num_trained_tokens=_trained(row),
        too_long=len(row.tokens) > question.max_seq_length,
        input_ids=tuple(ids),
        # One by one: a token that is half of a character shows as the replacement character, and stays one token.
        tokens=tuple(tokenizer.decode([token]) for token in ids),
        spans=tuple(
            Span(start=start, stop=stop, weight=weight, text=tokenizer.decode(ids[start:stop]))
            for start, stop, weight in stretches(row.weights[: question.most_tokens])
        ),
    )


def stretches(weights: Sequence[float]) -> Iterator[tuple[int, int, float]]:
    """Start, stop and weight of each run of tokens that count the same in the loss, and at all."""
    start = 0
    for weight, run in groupby(weights):
        stop = start + sum(1 for _ in run)
        if weight > 0:
            yield start, stop, weight
        start = stop
