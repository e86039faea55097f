"""Held-out loss of adapter and base model, in micro-batches, so that orders and neighbours get their turn."""

import math
from collections.abc import Sequence

import torch

from trainer.warm.adapter import Adapter
from trainer.warm.batch import Row, Share
from trainer.warm.model import BaseModel

#: An epoch of at least this many steps is also evaluated within, QUARTERS times.
LONG_EPOCH = 80
QUARTERS = 4


class Evaluation:
    """One evaluation in progress: the mean loss over all held-out target tokens (natural log).

    Args:
        rows: held out; not empty.
        adapter: as it is now; it must not step meanwhile.
        base_loss: the base model's own loss where it is already known, since that never changes.
    """

    def __init__(self, rows: Sequence[Row], adapter: Adapter, base_loss: float | None) -> None:
        self._rows = sorted(rows, key=len, reverse=True)
        self._targets = sum(row.targets for row in rows)
        self._passes: list[Adapter | None] = [adapter] if base_loss is not None else [adapter, None]
        self._base_loss = base_loss
        self._sums = [0.0 for _ in self._passes]
        self._pass = self._next = 0

    @property
    def done(self) -> bool:
        """Whether both losses are known."""
        return self._pass == len(self._passes)

    @property
    def valid_loss(self) -> float:
        """The adapter's."""
        return self._sums[0] / self._targets

    @property
    def base_valid_loss(self) -> float:
        """The base model's."""
        return self._sums[1] / self._targets if self._base_loss is None else self._base_loss

    def advance(self, base: BaseModel, budget: int) -> None:
        """One micro-batch of at most `budget` tokens, or one row. Counts only if it gets through."""
        taken, tokens = self._next, 0
        while taken < len(self._rows) and (
            taken == self._next or tokens + len(self._rows[taken]) <= budget
        ):
            tokens += len(self._rows[taken])
            taken += 1
        share = Share(self._rows[self._next : taken], self._passes[self._pass], 0.0)
        with torch.no_grad():
            _, losses_N = base.losses(base.assemble([share]))
        self._sums[self._pass] += float(losses_N.sum())
        self._next = taken
        if taken == len(self._rows):
            self._pass, self._next = self._pass + 1, 0


def evaluation_due(step: int, steps_per_epoch: int) -> bool:
    """Whether held-out loss is wanted after `step` steps: at the end of each epoch, and within long ones."""
    within = step % steps_per_epoch
    if within == 0:
        return step > 0
    return steps_per_epoch >= LONG_EPOCH and within % math.ceil(steps_per_epoch / QUARTERS) == 0
