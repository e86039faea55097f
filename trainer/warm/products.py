"""The low-rank products of the jobs in a pass, for one group of sibling layers.

A block is a stretch of tokens whose products are computed together. With one job to a block, its products are exactly
its own. With many, their factors are stacked and a mask keeps every token to its own job: more arithmetic, by the
number of jobs, in a number of operations that does not grow with them. On a CPU arithmetic is dear and blocks have one
job. On a GPU small jobs would spend their time in launches, some ten for each job and group.

The mask multiplies by zero what is not one's own, which holds for finite numbers only: see `Loop` for what happens when
a job diverges.

Shapes: N tokens of a block, I inputs, O outputs of all siblings, o of one, S stacked ranks, R one job's.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import torch
from torch import Tensor

from trainer.warm.adapter import Factors, Member


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
    def ranks(self) -> int:
        """Of all members."""
        return self.factors.a_SI.shape[0]


class Block(Protocol):
    """Products of the tokens `start:stop`."""

    start: int
    stop: int

    def forward(self, x_NI: Tensor, y_NO: Tensor, spans: Sequence[slice]) -> Tensor:
        """Add to y; `spans` are the siblings' columns. Returns what backward needs [N, S]."""

    def backward(self, h_NS: Tensor, dy_NO: Tensor, spans: Sequence[slice]) -> Tensor:
        """Add to the gradients of B. Returns the gradient of x A^T [N, S]."""

    def backward_inputs(self, x_NI: Tensor, dh_NS: Tensor, dx_NI: Tensor | None) -> None:
        """Add to the gradients of A, and to that of x where it is wanted."""


#: Made once for each layout of columns in a pass: most layers of a model share it.
Masks: TypeAlias = dict[tuple[tuple[int, int, float, int], ...], Tensor]


def blocks_of(parts: Sequence[Part], ranks_together: int, masks: Masks) -> Iterator[Block]:
    """Parts in blocks of up to so many stacked ranks; a part that is larger, or has dropout, is a block of its own."""
    gathered: list[Part] = []
    ranks = 0
    for part in parts:
        fits = not part.kept_NI and ranks + part.ranks <= ranks_together
        if gathered and not fits:
            yield _block(gathered, masks)
            gathered, ranks = [], 0
        gathered.append(part)
        ranks += part.ranks if not part.kept_NI else ranks_together
    if gathered:
        yield _block(gathered, masks)


def _block(parts: list[Part], masks: Masks) -> Block:
    return OneJob(parts[0]) if len(parts) == 1 else ManyJobs(parts, masks)


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

    def backward(self, h_NS: Tensor, dy_NO: Tensor, spans: Sequence[slice]) -> Tensor:
        """See Block."""
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

    def backward_inputs(self, x_NI: Tensor, dh_NS: Tensor, dx_NI: Tensor | None) -> None:
        """See Block."""
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


class ManyJobs:
    """Several jobs' products at once: columns ordered by sibling, then by job."""

    def __init__(self, parts: Sequence[Part], masks: Masks) -> None:
        self.start, self.stop = parts[0].start, parts[-1].stop
        columns = [(member, part) for part in parts for member in part.factors.members]
        columns.sort(key=lambda column: column[0].index)  # stable: jobs stay in order
        self._members = [member for member, _ in columns]
        self._grads_a = [part.factors.grad_a_SI[m.start : m.stop] for m, part in columns]
        self._widths = [member.stop - member.start for member in self._members]
        self._a_SI = torch.cat([part.factors.a_SI[m.start : m.stop] for m, part in columns])
        self._b = {
            index: (stretch, torch.cat([member.b_OR for member in members], dim=1))
            for index, stretch, members in self._by_sibling()
        }
        layout = tuple((part.start, part.stop, part.scale, m.stop - m.start) for m, part in columns)
        if layout not in masks:
            masks[layout] = _mask([(part, m.stop - m.start) for m, part in columns], self._a_SI)
        self._mask_NS = masks[layout]

    def forward(self, x_NI: Tensor, y_NO: Tensor, spans: Sequence[slice]) -> Tensor:
        """See Block. The mask carries the scales."""
        h_NS = (x_NI @ self._a_SI.t()).mul_(self._mask_NS)
        for index, (own, b_oS) in self._b.items():
            y_NO[:, spans[index]].addmm_(h_NS[:, own], b_oS.t())
        return h_NS

    def backward(self, h_NS: Tensor, dy_NO: Tensor, spans: Sequence[slice]) -> Tensor:
        """See Block."""
        dh_NS = torch.empty_like(h_NS)
        grads: list[Tensor] = []
        for index, (own, b_oS) in self._b.items():
            dy_No = dy_NO[:, spans[index]]
            torch.mm(dy_No, b_oS, out=dh_NS[:, own])
            grads.append(dy_No.t() @ h_NS[:, own])
        shares = [
            share
            for grad_oS, (_, _, members) in zip(grads, self._by_sibling(), strict=True)
            for share in grad_oS.split([m.stop - m.start for m in members], dim=1)
        ]
        _add_each([member.grad_b_OR for member in self._members], shares)
        return dh_NS.mul_(self._mask_NS)

    def backward_inputs(self, x_NI: Tensor, dh_NS: Tensor, dx_NI: Tensor | None) -> None:
        """See Block."""
        _add_each(self._grads_a, (dh_NS.t() @ x_NI).split(self._widths))
        if dx_NI is not None:
            dx_NI.addmm_(dh_NS, self._a_SI)

    def _by_sibling(self) -> Iterator[tuple[int, slice, list[Member]]]:
        """Index of a sibling, its columns, and its members of all jobs."""
        start = 0
        for index, group in itertools.groupby(self._members, key=lambda member: member.index):
            members = list(group)
            stop = start + sum(member.stop - member.start for member in members)
            yield index, slice(start, stop), members
            start = stop


def _mask(columns: Sequence[tuple[Part, int]], like: Tensor) -> Tensor:
    """The job's scale where token and column are of one job, else 0 [N, S]. `columns`: their owner and how many."""
    start = min(part.start for part, _ in columns)
    stop = max(part.stop for part, _ in columns)
    mask_NS = torch.zeros(stop - start, sum(width for _, width in columns), dtype=torch.float64)
    at = 0
    for part, width in columns:
        mask_NS[part.start - start : part.stop - start, at : at + width] = part.scale
        at += width
    return mask_NS.to(like)


def _accumulate(total: Tensor, left: Tensor, right: Tensor, scale: float) -> None:
    """Add scale * left @ right, also where total is more precise than the factors."""
    if total.dtype == left.dtype:
        total.addmm_(left, right, alpha=scale)
    else:
        total.add_(left @ right, alpha=scale)


def _add_each(totals: Sequence[Tensor], shares: Sequence[Tensor]) -> None:
    torch._foreach_add_(list(totals), [s.to(t.dtype) for s, t in zip(shares, totals, strict=True)])
