"""The low-rank products of the jobs in a pass, for one group of sibling layers.

One job's products are a handful of small operations, of which starting takes longer than computing: ten for each job,
group and direction. So small jobs of one cohort are batched: their tokens are padded to the longest, and one batched
product serves them all. What is one job's stays a batch element of its own, so that not even NaN gets from one to
another.

Shapes: K jobs, N tokens of one (in a batch: of the longest), I inputs, O outputs of all siblings, o of one, S stacked
ranks of a job, R one rank.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from trainer.warm.adapter import Factors


class Block(Protocol):
    """Products of some of the tokens; `x`, `y` and the like are those of these, `ys` one for each sibling."""

    def forward(self, x_NI: Tensor, ys_No: Sequence[Tensor]) -> Tensor:
        """Add to y. Returns x A^T, for backward."""

    def backward(
        self, h: Tensor, dys_No: Sequence[Tensor], x_NI: Tensor, dx_NI: Tensor | None
    ) -> None:
        """Add to the gradients of A and B, and to that of x where it is wanted."""


@dataclass(frozen=True, slots=True)
class OneJob:
    """One job's products, with its own dropout."""

    factors: Factors
    scale: float
    #: For each member: 0 where dropped, else 1 / (1 - p). Empty without dropout.
    kept_NI: tuple[Tensor, ...] = ()

    def forward(self, x_NI: Tensor, ys_No: Sequence[Tensor]) -> Tensor:
        """See Block."""
        h_NS = self._project(x_NI)
        for member, h_NR in zip(self.factors.members, self.factors.apart(h_NS), strict=True):
            # In the product's epilogue: `y + scale * (h @ B^T)` would read and write y twice more (~8 % of a step).
            ys_No[member.index].addmm_(h_NR, member.b_RO, alpha=self.scale)
        return h_NS

    def backward(
        self, h: Tensor, dys_No: Sequence[Tensor], x_NI: Tensor, dx_NI: Tensor | None
    ) -> None:
        """See Block."""
        self._backward_inputs(x_NI, self._backward_outputs(h, dys_No), dx_NI)

    def _backward_outputs(self, h_NS: Tensor, dys_No: Sequence[Tensor]) -> Tensor:
        """Add to the gradients of B. Returns that of h [N, S]."""
        factors = self.factors
        dh_NS = torch.empty_like(h_NS)
        own = zip(factors.members, factors.apart(h_NS), factors.apart(dh_NS), strict=True)
        for member, h_NR, dh_NR in own:
            dy_No = dys_No[member.index]
            torch.mm(dy_No, member.b_OR, out=dh_NR)
            _accumulate(member.grad_b_OR, dy_No.t(), h_NR, self.scale)
        return dh_NS

    def _backward_inputs(self, x_NI: Tensor, dh_NS: Tensor, dx_NI: Tensor | None) -> None:
        factors, scale = self.factors, self.scale
        if not self.kept_NI:
            _accumulate(factors.grad_a_SI, dh_NS.t(), x_NI, scale)
            if dx_NI is not None:
                dx_NI.addmm_(dh_NS, factors.a_SI, alpha=scale)
            return
        for member, kept_NI in zip(factors.members, self.kept_NI, strict=True):
            own = slice(member.start, member.stop)
            _accumulate(factors.grad_a_SI[own], dh_NS[:, own].t(), x_NI * kept_NI, scale)
            if dx_NI is not None:
                dx_NI.addcmul_(dh_NS[:, own] @ factors.a_SI[own], kept_NI, value=scale)

    def _project(self, x_NI: Tensor) -> Tensor:
        """All members' x A^T [N, S]."""
        a_IS = self.factors.a_IS
        if not self.kept_NI:
            return x_NI @ a_IS
        members = zip(self.factors.members, self.kept_NI, strict=True)
        return torch.cat([(x_NI * kept) @ a_IS[:, m.start : m.stop] for m, kept in members], 1)


@dataclass(frozen=True, slots=True)
class Padding:
    """Tokens of several jobs, one job's after the other's, and as a batch [K, N]."""

    jobs: int
    longest: int
    #: Where the tokens lie in the batch [K * N]; None where all jobs have as many.
    at_T: Tensor | None
    #: By width and dtype. What is between the tokens stays zero, so that they are used again and again.
    buffers: dict[tuple[int, torch.dtype], Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, lengths: Sequence[int], device: torch.device) -> "Padding":
        """For jobs with so many tokens."""
        longest = max(lengths)
        if min(lengths) == longest:
            return cls(len(lengths), longest, None)
        at = [torch.arange(length) + job * longest for job, length in enumerate(lengths)]
        return cls(len(lengths), longest, torch.cat(at).to(device))

    def pad(self, flat: Tensor) -> Tensor:
        """[T, W] to [K, N, W], zero where there is no token. Good until the next call."""
        if self.at_T is not None:
            key = flat.shape[1], flat.dtype
            if key not in self.buffers:
                self.buffers[key] = flat.new_zeros(self.jobs * self.longest, flat.shape[1])
            flat = self.buffers[key].index_copy_(0, self.at_T, flat)
        return flat.unflatten(0, (self.jobs, self.longest))

    def add_product(self, flat: Tensor, left: Tensor, right: Tensor, scale: float) -> None:
        """Add scale * left @ right, [K, N, ..] by [K, .., W], to the tokens [T, W]."""
        if self.at_T is None:
            batch = flat.unflatten(0, (self.jobs, self.longest))
            _accumulate_batch(batch, left, right, scale)
        else:
            batch = torch.bmm(left, right).flatten(0, 1)
            flat.add_(batch.index_select(0, self.at_T), alpha=scale)


@dataclass(frozen=True, slots=True)
class ManyJobs:
    """The products of some jobs of one cohort, batched."""

    #: With K in front.
    factors: Factors
    scale: float
    padding: Padding

    def forward(self, x_NI: Tensor, ys_No: Sequence[Tensor]) -> Tensor:
        """See Block. Returns [K, N, S]."""
        h_KNS = torch.bmm(self.padding.pad(x_NI), self.factors.a_IS)
        for member, h_KNR in zip(self.factors.members, self.factors.apart(h_KNS), strict=True):
            self.padding.add_product(ys_No[member.index], h_KNR, member.b_RO, self.scale)
        return h_KNS

    def backward(
        self, h: Tensor, dys_No: Sequence[Tensor], x_NI: Tensor, dx_NI: Tensor | None
    ) -> None:
        """See Block."""
        dh_KNS = self._backward_outputs(h, dys_No)
        _accumulate_batch(self.factors.grad_a_SI, dh_KNS.mT, self.padding.pad(x_NI), self.scale)
        if dx_NI is not None:
            self.padding.add_product(dx_NI, dh_KNS, self.factors.a_SI, self.scale)

    def _backward_outputs(self, h_KNS: Tensor, dys_No: Sequence[Tensor]) -> Tensor:
        """Add to the gradients of B. Returns that of h [K, N, S]."""
        found = []
        for member, h_KNR in zip(self.factors.members, self.factors.apart(h_KNS), strict=True):
            dy_KNo = self.padding.pad(dys_No[member.index])
            # Not into columns of something larger: a CPU would compute one job's product after the other.
            found.append(torch.bmm(dy_KNo, member.b_OR))
            _accumulate_batch(member.grad_b_OR, dy_KNo.mT, h_KNR, self.scale)
        return found[0] if len(found) == 1 else torch.cat(found, 2)


def _accumulate(total: Tensor, left: Tensor, right: Tensor, scale: float) -> None:
    """Add scale * left @ right, also where total is more precise than the factors."""
    if total.dtype == left.dtype:
        total.addmm_(left, right, alpha=scale)
    else:
        total.add_(left @ right, alpha=scale)


def _accumulate_batch(total: Tensor, left: Tensor, right: Tensor, scale: float) -> None:
    # Into rows of something larger, a CPU computes one job's product after the other.
    if total.dtype == left.dtype and (total.is_cuda or total.is_contiguous()):
        total.baddbmm_(left, right, alpha=scale)
    else:
        total.add_(torch.bmm(left, right), alpha=scale)
