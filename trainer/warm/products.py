"""The low-rank products of the jobs in a pass, for one group of sibling layers.

One job's products are a handful of small operations, of which starting takes longer than computing: ten for each job,
group and direction. So jobs of one shape with few tokens can be batched: their factors are stacked, their tokens padded
to the longest, and one batched product serves them all. What is one job's stays a batch element of its own, so that not
even NaN gets from one to another. Stacking copies the factors: on a CPU that costs what it saves (bench/LOG.md), and
every job is by itself there.

Shapes: K jobs, N tokens of one (in a batch: of the longest), I inputs, O outputs of all siblings, o of one, S stacked
ranks of a job, R one rank.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import torch
from torch import Tensor

from trainer.warm.adapter import Factors


@dataclass(frozen=True, slots=True)
class Part:
    """A job's tokens `start:stop` as one group of siblings sees them."""

    start: int
    stop: int
    scale: float
    factors: Factors
    #: For each member: 0 where dropped, else 1 / (1 - p). Empty without dropout.
    kept_NI: tuple[Tensor, ...] = ()

    @property
    def length(self) -> int:
        """In tokens."""
        return self.stop - self.start

    @property
    def shape(self) -> tuple[object, ...]:
        """Equal for parts that can be batched."""
        members = [(member.index, member.stop) for member in self.factors.members]
        return self.scale, *members


class Block(Protocol):
    """Products of some of the tokens `start:stop`; `x`, `y` and the like are those of all of them."""

    start: int
    stop: int

    def forward(self, x_NI: Tensor, y_NO: Tensor, spans: Sequence[slice]) -> Tensor:
        """Add to y; `spans` are the siblings' columns. Returns x A^T, for backward."""

    def backward(self, h: Tensor, dy_NO: Tensor, spans: Sequence[slice]) -> Tensor:
        """Add to the gradients of B. Returns the gradient of x A^T."""

    def backward_inputs(self, x_NI: Tensor, dh: Tensor, dx_NI: Tensor | None) -> None:
        """Add to the gradients of A, and to that of x where it is wanted."""


#: Where a batch's tokens lie, by the starts and stops of its parts: the same in all layers of a pass.
Layouts: TypeAlias = dict[tuple[tuple[int, int], ...], "Layout"]
#: A batch may be padded to so many times its tokens.
MOST_PADDING = 1.5


def blocks_of(parts: Sequence[Part], most_tokens: int, layouts: Layouts) -> Iterator[Block]:
    """Parts of up to so many tokens in batches of one shape; each other part by itself."""
    small = [part for part in parts if part.length <= most_tokens and not part.kept_NI]
    yield from (OneJob(part) for part in parts if part.length > most_tokens or part.kept_NI)
    small.sort(key=lambda part: (repr(part.shape), -part.length))
    for _, alike in itertools.groupby(small, key=lambda part: part.shape):
        for batch in _of_similar_length(list(alike)):
            yield OneJob(batch[0]) if len(batch) == 1 else ManyJobs(batch, layouts)


def _of_similar_length(parts: Sequence[Part]) -> Iterator[list[Part]]:
    """`parts` come longest first."""
    batch: list[Part] = []
    tokens = 0
    for part in parts:
        if batch and batch[0].length * (len(batch) + 1) > MOST_PADDING * (tokens + part.length):
            yield batch
            batch, tokens = [], 0
        batch.append(part)
        tokens += part.length
    yield batch


class OneJob:
    """One job's products, with its own dropout."""

    def __init__(self, part: Part) -> None:
        self.start, self.stop = part.start, part.stop
        self._part = part

    def forward(self, x_NI: Tensor, y_NO: Tensor, spans: Sequence[slice]) -> Tensor:
        """See Block."""
        members, scale = self._part.factors.members, self._part.scale
        h_NS = self._project(x_NI)
        # In the product's epilogue: `y + scale * (h @ B^T)` would read and write y twice more (~8 % of a step).
        if len(spans) == 1:  # no views to make: half of the time of a small product
            y_NO.addmm_(h_NS, members[0].b_RO, alpha=scale)
            return h_NS
        for member in members:
            h_NR = h_NS[:, member.start : member.stop]
            y_NO[:, spans[member.index]].addmm_(h_NR, member.b_RO, alpha=scale)
        return h_NS

    def backward(self, h: Tensor, dy_NO: Tensor, spans: Sequence[slice]) -> Tensor:
        """See Block. Takes and returns [N, S]."""
        h_NS = h
        members, scale = self._part.factors.members, self._part.scale
        if len(spans) == 1:
            _accumulate(members[0].grad_b_OR, dy_NO.t(), h_NS, scale)
            return dy_NO @ members[0].b_OR
        dh_NS = torch.empty_like(h_NS)
        for member in members:
            dy_No, own = dy_NO[:, spans[member.index]], slice(member.start, member.stop)
            torch.mm(dy_No, member.b_OR, out=dh_NS[:, own])
            _accumulate(member.grad_b_OR, dy_No.t(), h_NS[:, own], scale)
        return dh_NS

    def backward_inputs(self, x_NI: Tensor, dh: Tensor, dx_NI: Tensor | None) -> None:
        """See Block."""
        dh_NS = dh
        factors, scale = self._part.factors, self._part.scale
        if not self._part.kept_NI:
            _accumulate(factors.grad_a_SI, dh_NS.t(), x_NI, scale)
            if dx_NI is not None:
                dx_NI.addmm_(dh_NS, factors.a_SI, alpha=scale)
            return
        for member, kept_NI in zip(factors.members, self._part.kept_NI, strict=True):
            own = slice(member.start, member.stop)
            _accumulate(factors.grad_a_SI[own], dh_NS[:, own].t(), x_NI * kept_NI, scale)
            if dx_NI is not None:
                dx_NI.addcmul_(dh_NS[:, own] @ factors.a_SI[own], kept_NI, value=scale)

    def _project(self, x_NI: Tensor) -> Tensor:
        """All members' x A^T [N, S]."""
        a_IS, part = self._part.factors.a_IS, self._part
        if not part.kept_NI:
            return x_NI @ a_IS
        members = zip(part.factors.members, part.kept_NI, strict=True)
        return torch.cat([(x_NI * kept) @ a_IS[:, m.start : m.stop] for m, kept in members], 1)


@dataclass(frozen=True, slots=True)
class Layout:
    """Tokens of several jobs, flat from `start` on and as a batch [K, N]."""

    start: int
    stop: int
    jobs: int
    longest: int
    #: Where the jobs' tokens lie in the flat sequence and in the batch; None where both are the same.
    flat_at_T: Tensor | None
    batch_at_T: Tensor | None

    @classmethod
    def of(cls, parts: Sequence[Part], device: torch.device) -> "Layout":
        """Of these parts, in this order."""
        start, stop = min(part.start for part in parts), max(part.stop for part in parts)
        longest = max(part.length for part in parts)
        flat = [torch.arange(part.start - start, part.stop - start) for part in parts]
        batch = [torch.arange(part.length) + at * longest for at, part in enumerate(parts)]
        flat_at_T, batch_at_T = torch.cat(flat), torch.cat(batch)
        every_T = torch.arange(len(parts) * longest)
        if torch.equal(flat_at_T, every_T) and torch.equal(batch_at_T, every_T):
            return cls(start, stop, len(parts), longest, None, None)
        indices = flat_at_T.to(device), batch_at_T.to(device)
        return cls(start, stop, len(parts), longest, *indices)

    def gather(self, flat: Tensor) -> Tensor:
        """[flat tokens, W] to [K, N, W], zero where there is no token."""
        if self.flat_at_T is not None and self.batch_at_T is not None:
            empty = flat.new_zeros(self.jobs * self.longest, flat.shape[1])
            flat = empty.index_copy_(0, self.batch_at_T, flat.index_select(0, self.flat_at_T))
        return flat.unflatten(0, (self.jobs, self.longest))

    def add(self, flat: Tensor, batch: Tensor, scale: float) -> None:
        """Add scale * batch [K, N, W] to the flat tokens [.., W]."""
        if self.flat_at_T is None or self.batch_at_T is None:
            flat.unflatten(0, (self.jobs, self.longest)).add_(batch, alpha=scale)
        else:
            own = batch.flatten(0, 1).index_select(0, self.batch_at_T)
            flat.index_add_(0, self.flat_at_T, own, alpha=scale)


class ManyJobs:
    """The products of jobs of one shape, batched."""

    def __init__(self, parts: Sequence[Part], layouts: Layouts) -> None:
        first = parts[0].factors
        spans = tuple((part.start, part.stop) for part in parts)
        if spans not in layouts:
            layouts[spans] = Layout.of(parts, first.a_SI.device)
        self._layout = layouts[spans]
        self.start, self.stop = self._layout.start, self._layout.stop
        self._scale = parts[0].scale
        self._grads_a = [part.factors.grad_a_SI for part in parts]
        self._a_KSI = torch.stack([part.factors.a_SI for part in parts])
        self._members = [
            _Batched(
                member.index,
                slice(member.start, member.stop),
                torch.stack([part.factors.members[at].b_OR for part in parts]),
                [part.factors.members[at].grad_b_OR for part in parts],
            )
            for at, member in enumerate(first.members)
        ]

    def forward(self, x_NI: Tensor, y_NO: Tensor, spans: Sequence[slice]) -> Tensor:
        """See Block. Returns [K, N, S]."""
        h_KNS = torch.bmm(self._layout.gather(x_NI), self._a_KSI.transpose(1, 2))
        for member in self._members:
            out_KNo = torch.bmm(h_KNS[:, :, member.own], member.b_KoR.transpose(1, 2))
            self._layout.add(y_NO[:, spans[member.index]], out_KNo, self._scale)
        return h_KNS

    def backward(self, h: Tensor, dy_NO: Tensor, spans: Sequence[slice]) -> Tensor:
        """See Block. Takes and returns [K, N, S]."""
        parts = []
        for member in self._members:
            dy_KNo = self._layout.gather(dy_NO[:, spans[member.index]])
            parts.append(torch.bmm(dy_KNo, member.b_KoR))
            grad_KoR = torch.bmm(dy_KNo.transpose(1, 2), h[:, :, member.own])
            _add_each(member.grads_b, grad_KoR, self._scale)
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)

    def backward_inputs(self, x_NI: Tensor, dh: Tensor, dx_NI: Tensor | None) -> None:
        """See Block."""
        grad_KSI = torch.bmm(dh.transpose(1, 2), self._layout.gather(x_NI))
        _add_each(self._grads_a, grad_KSI, self._scale)
        if dx_NI is not None:
            self._layout.add(dx_NI, torch.bmm(dh, self._a_KSI), self._scale)


@dataclass(frozen=True, slots=True)
class _Batched:
    """B of one sibling, of all jobs."""

    index: int
    #: Its rows of the stacked A.
    own: slice
    b_KoR: Tensor
    grads_b: list[Tensor]


def _accumulate(total: Tensor, left: Tensor, right: Tensor, scale: float) -> None:
    """Add scale * left @ right, also where total is more precise than the factors."""
    if total.dtype == left.dtype:
        total.addmm_(left, right, alpha=scale)
    else:
        total.add_(left @ right, alpha=scale)


def _add_each(totals: Sequence[Tensor], batch: Tensor, scale: float) -> None:
    """Add scale times each element of the batch to a tensor of its own."""
    shares = batch.to(totals[0].dtype).unbind(0)
    torch._foreach_add_(list(totals), list(shares), alpha=scale)
