"""What training sees of the data: rows of tokens, and the samples that they make up. On the CPU.

Shapes: T tokens of a row, N target positions among them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Row:
    """One tokenised sequence."""

    tokens_T: Tensor
    #: How much each token counts in the loss, float32; 0 is context. The first never counts: nothing predicts it.
    weights_T: Tensor

    def __post_init__(self) -> None:
        if self.weights_T[0] != 0:
            weights_T = self.weights_T.clone()
            weights_T[0] = 0
            object.__setattr__(self, "weights_T", weights_T)

    def __len__(self) -> int:
        return int(self.tokens_T.shape[0])

    @cached_property
    def targets_at_N(self) -> Tensor:
        """Positions of the tokens that count."""
        return self.weights_T.nonzero().squeeze(-1)

    @cached_property
    def targets(self) -> int:
        """How many tokens count in the loss."""
        return int(self.targets_at_N.numel())

    @cached_property
    def target_weights_N(self) -> Tensor:
        """The weights of those that do."""
        return self.weights_T[self.targets_at_N]

    @cached_property
    def read(self) -> int:
        """How many leading tokens the last target follows from: nothing is asked of those after them. At least one."""
        return int(self.targets_at_N[-1]) if self.targets else 1

    @cached_property
    def weight(self) -> float:
        """The sum of all weights."""
        return float(self.weights_T.double().sum())


@dataclass(frozen=True, eq=False)
class Sample:
    """Rows that an optimizer step takes together or not at all: one, or the two sides of a comparison."""

    rows: tuple[Row, ...]

    @cached_property
    def tokens(self) -> int:
        """Tokens of all rows."""
        return sum(len(row) for row in self.rows)

    @cached_property
    def targets(self) -> int:
        """Target tokens of all rows."""
        return sum(row.targets for row in self.rows)


def common_prefix(rows: Sequence[Row]) -> int:
    """How many leading tokens all rows share, leaving each at least one of its own that is read."""
    longest = min(row.read for row in rows) - 1
    first_T = rows[0].tokens_T
    for row in rows[1:]:
        if longest == 0:
            break
        differs = (first_T[:longest] != row.tokens_T[:longest]).nonzero()
        if differs.numel():
            longest = int(differs[0])
    return longest


def stack_weights(samples: Sequence[Sample]) -> Tensor:
    """The weights of all target tokens, in the order of a micro-batch [N]."""
    return torch.cat([row.target_weights_N for sample in samples for row in sample.rows])
