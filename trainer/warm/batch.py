"""Micro-batches: whole rows of any jobs, laid end to end, each job's rows together.

Shapes: T tokens of all rows, N target positions among them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trainer.warm.adapter import Adapter
from trainer.warm.attention import Packing
from trainer.warm.lora import Segment


@dataclass(frozen=True, slots=True)
class Row:
    """One tokenised training row. On the CPU."""

    tokens_T: Tensor
    #: Whether each token counts in the loss. The first never does: nothing predicts it.
    is_target_T: Tensor

    def __len__(self) -> int:
        return int(self.tokens_T.shape[0])

    @property
    def targets(self) -> int:
        """How many tokens count in the loss."""
        return int(self.is_target_T[1:].sum())


@dataclass(frozen=True, slots=True)
class Share:
    """The rows that one job has in a micro-batch."""

    rows: Sequence[Row]
    #: None means the base model as it is.
    adapter: Adapter | None
    #: Of each target token in the sum that is differentiated: 1 / (target tokens of the job's optimizer step).
    token_weight: float
    #: Seeds of the rows' dropout masks.
    seeds: Sequence[int] = ()

    @property
    def tokens(self) -> int:
        """Tokens of all rows."""
        return sum(len(row) for row in self.rows)


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """What one pass through the base model computes, on its device."""

    tokens_T: Tensor
    positions_T: Tensor
    packing: Packing
    segments: tuple[Segment, ...]
    #: Positions whose next token is a target, those tokens, and their weights.
    predicts_N: Tensor
    targets_N: Tensor
    weights_N: Tensor
    #: How many of the N belong to each share, in order.
    targets_of_share: tuple[int, ...]


def assemble(shares: Sequence[Share], device: torch.device, dtype: torch.dtype) -> MicroBatch:
    """Lay out the shares. `dtype` is that of the loss: float32, or float64 where the base model is."""
    rows = [row for share in shares for row in share.rows]
    tokens_T = torch.cat([row.tokens_T for row in rows])
    is_target_T = torch.cat([_without_first(row.is_target_T) for row in rows])
    targets_at_N = is_target_T.nonzero().squeeze(-1)
    targets_of_share = tuple(sum(row.targets for row in share.rows) for share in shares)
    weights_N = torch.cat(
        [
            torch.full((count,), share.token_weight, dtype=dtype)
            for share, count in zip(shares, targets_of_share, strict=True)
        ]
    )
    return MicroBatch(
        tokens_T=tokens_T.to(device),
        positions_T=torch.cat([torch.arange(len(row)) for row in rows]).to(device),
        packing=Packing.of([len(row) for row in rows], device),
        segments=_segments(shares),
        predicts_N=(targets_at_N - 1).to(device),
        targets_N=tokens_T[targets_at_N].to(device),
        weights_N=weights_N.to(device),
        targets_of_share=targets_of_share,
    )


def _without_first(is_target_T: Tensor) -> Tensor:
    clipped_T = is_target_T.clone()
    clipped_T[0] = False
    return clipped_T


def _segments(shares: Sequence[Share]) -> tuple[Segment, ...]:
    segments, start = [], 0
    for share in shares:
        at, rows = start, []
        for row, seed in zip(share.rows, share.seeds or [0] * len(share.rows), strict=True):
            rows.append((at, at + len(row), seed))
            at += len(row)
        if share.adapter is not None:
            segments.append(Segment(start, at, share.adapter, tuple(rows)))
        start = at
    return tuple(segments)
