"""Who computes which low-rank products in a pass: made once, then asked by every group of layers.

Where there is a kernel for it, all jobs are computed at once, but for those with dropout. Else small ones are batched.
A batch is made of jobs that lie next to each other, in the micro-batch and in their cohort.

Shapes: T tokens of the pass, N tokens of one job, I inputs of a layer.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from trainer.warm.adapter import Adapter, Factors, Siblings
from trainer.warm.at_once import Company, Tables
from trainer.warm.cohort import Cohort, Cohorts
from trainer.warm.native.layout import pack_job
from trainer.warm.products import Block, ManyJobs, OneJob, Padding

#: A batch may be padded to so many times its tokens.
MOST_PADDING = 2.0


@dataclass(frozen=True, slots=True)
class Segment:
    """The tokens `start:stop` of a micro-batch, which belong to one job."""

    start: int
    stop: int
    adapter: Adapter
    #: Start, stop and seed of each row; only read where there is dropout.
    rows: tuple[tuple[int, int, int], ...] = ()

    @property
    def length(self) -> int:
        """In tokens."""
        return self.stop - self.start


class Part(Protocol):
    """Whose products are computed by themselves, or together."""

    @property
    def tokens(self) -> slice:
        """Which of the pass."""

    def block(self, names: Siblings, x_TI: Tensor) -> Block | None:
        """Those of some siblings; None where none of them is adapted."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Everybody's parts, in the order of the micro-batch."""

    parts: tuple[Part, ...] = ()
    #: What the tokens are cut into: each part's, and what lies between them and is nobody's.
    lengths: tuple[int, ...] = ()
    #: Which of these is each part's.
    places: tuple[int, ...] = ()
    #: A part before those, which has the whole pass and takes from it what is its own.
    at_once: Company | None = None

    @classmethod
    def of(
        cls,
        segments: Sequence[Segment],
        cohorts: Cohorts,
        most_tokens: int,
        tokens: int,
        tables: Tables | None = None,
    ) -> "Plan":
        """Of a pass with so many tokens. Jobs with up to `most_tokens` are batched where they can be."""
        assert all(0 <= one.start <= one.stop <= tokens for one in segments)
        at_once = None if tables is None else _company(segments, tables)
        if at_once is not None:
            segments = [one for one in segments if not _suits_kernel(one)]
        parts = [
            Alone(batch[0].segment) if len(batch) == 1 else Together.of(batch)
            for batch in _batches(segments, cohorts, most_tokens)
        ]
        lengths: list[int] = []
        places, end = [], 0
        for own in (part.tokens for part in parts):
            if own.start > end:
                lengths.append(own.start - end)
            places.append(len(lengths))
            lengths.append(own.stop - own.start)
            end = own.stop
        if tokens > end:
            lengths.append(tokens - end)
        return cls(tuple(parts), tuple(lengths), tuple(places), at_once)

    def cut(self, flat: Tensor) -> Sequence[Tensor]:
        """What is each part's of [T, ...]. All at once: to slice takes as long for each as a small product."""
        whole = () if self.at_once is None else (flat,)
        if not self.parts:
            return whole
        pieces = flat.split(self.lengths)
        if len(pieces) == len(self.places) and not whole:
            return pieces
        return [*whole, *(pieces[at] for at in self.places)]

    def blocks(self, names: Siblings, x_TI: Tensor) -> list[Block | None]:
        """Of each part, for some siblings."""
        blocks = [part.block(names, x_TI) for part in self.parts]
        return blocks if self.at_once is None else [self.at_once.block(names), *blocks]


@dataclass(frozen=True, slots=True)
class _Seated:
    segment: Segment
    #: None for whoever is by itself.
    cohort: Cohort | None = None
    row: int = 0

    def follows(self, batch: Sequence["_Seated"]) -> bool:
        """Whether it may be computed together with these."""
        last, lengths = batch[-1], [one.segment.length for one in [*batch, self]]
        return (
            self.cohort is not None
            and self.cohort is last.cohort
            and self.row == last.row + 1
            and self.segment.start == last.segment.stop
            and max(lengths) * len(lengths) <= MOST_PADDING * sum(lengths)
        )


def _batches(
    segments: Sequence[Segment], cohorts: Cohorts, most_tokens: int
) -> Iterator[list[_Seated]]:
    batch: list[_Seated] = []
    for segment in segments:
        seated = _seat(segment, cohorts, most_tokens)
        if batch and not seated.follows(batch):
            yield batch
            batch = []
        batch.append(seated)
    if batch:
        yield batch


def _seat(segment: Segment, cohorts: Cohorts, most_tokens: int) -> _Seated:
    found = cohorts.find(segment.adapter)
    if found is None or segment.length > most_tokens or segment.adapter.spec.dropout:
        return _Seated(segment)
    return _Seated(segment, *found)


@dataclass(frozen=True, slots=True)
class Alone:
    """One job."""

    segment: Segment

    @property
    def tokens(self) -> slice:
        """See Part."""
        return slice(self.segment.start, self.segment.stop)

    def block(self, names: Siblings, x_TI: Tensor) -> Block | None:
        """See Part."""
        segment, adapter = self.segment, self.segment.adapter
        factors = adapter.factors.get(names)
        if factors is None:
            return None
        kept_NI = _draw_dropout(segment, factors, x_TI)
        return OneJob(factors, adapter.scale, kept_NI)


@dataclass(frozen=True, slots=True)
class Together:
    """Some jobs of one cohort."""

    tokens: slice
    factors: dict[Siblings, Factors]
    scale: float
    padding: Padding

    @classmethod
    def of(cls, batch: Sequence[_Seated]) -> "Together":
        """These, which follow each other."""
        first, last = batch[0], batch[-1]
        adapter = first.segment.adapter
        assert first.cohort is not None
        return cls(
            slice(first.segment.start, last.segment.stop),
            first.cohort.factors(first.row, last.row + 1),
            adapter.scale,
            Padding.of([one.segment.length for one in batch], adapter.weights_P.device),
        )

    def block(self, names: Siblings, x_TI: Tensor) -> Block | None:  # noqa: ARG002  nobody drops anything
        """See Part."""
        factors = self.factors.get(names)
        return None if factors is None else ManyJobs(factors, self.scale, self.padding)


def _company(segments: Sequence[Segment], tables: Tables) -> Company | None:
    """As many of these as the kernel can compute; None where it can none."""
    own = [one for one in segments if _suits_kernel(one)]
    if not own:
        return None
    adapters = tuple(one.adapter for one in own)
    # The longest first, so that no thread has much left to do when the others have done all.
    by_length = sorted(range(len(own)), key=lambda at: -own[at].length)
    ordered = [(own[at], at) for at in by_length]
    jobs = [pack_job(one.start, one.length, one.adapter.scale, at) for one, at in ordered]
    return Company(
        tables.kernel,
        adapters,
        tuple(buffer_P for one in adapters for buffer_P in (one.weights_P, one.gradient_P)),
        tuple(one.length for one in own),
        b"".join(jobs),
        tables.of(adapters),
    )


def _suits_kernel(segment: Segment) -> bool:
    return segment.adapter.tabled and not segment.adapter.spec.dropout


def _draw_dropout(segment: Segment, factors: Factors, x_TI: Tensor) -> tuple[Tensor, ...]:
    """A mask for each layer, as PEFT has it.

    A pure function of job, step, row and layer, so that neighbours, redone steps and resuming cannot change it.
    """
    rate = segment.adapter.spec.dropout
    if rate == 0.0 or not torch.is_grad_enabled():
        return ()
    return tuple(_draw_mask(segment, member.number, rate, x_TI) for member in factors.members)


def _draw_mask(segment: Segment, layer: int, rate: float, x_TI: Tensor) -> Tensor:
    kept_NI = torch.empty(segment.length, x_TI.shape[1], device=x_TI.device)
    generator = torch.Generator(device=x_TI.device)
    for start, stop, seed in segment.rows:
        generator.manual_seed((seed * 1_000_003 + layer) % 2**63)
        own = kept_NI[start - segment.start : stop - segment.start]
        own.bernoulli_(1.0 - rate, generator=generator)
    return kept_NI.to(x_TI.dtype).div_(1.0 - rate)
