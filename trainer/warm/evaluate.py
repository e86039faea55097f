"""Held-out loss and accuracy of an adapter, and the base model's loss, in micro-batches: others get their turn."""

import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass

from trainer.warm.adapter import Adapter
from trainer.warm.batch import Share, by_share
from trainer.warm.model import BaseModel
from trainer.warm.objective import Objective
from trainer.warm.rows import Sample

#: An epoch of at least this many steps is also evaluated within, QUARTERS times.
LONG_EPOCH = 80
QUARTERS = 4


@dataclass(slots=True)
class _Pass:
    """One view of all samples."""

    #: None means the base model alone.
    adapter: Adapter | None
    #: Of what an engine computes, rather than of what is trained on.
    served: bool
    total: float = 0.0
    #: Target tokens that it holds likeliest.
    hits: int = 0


class Evaluation:
    """One evaluation in progress: the mean loss of the objective over all held-out samples.

    Args:
        samples: held out; not empty.
        adapter: as it is now; it must not step meanwhile.
        objective: the job's.
        base_loss: the base model's own loss where it is already known, since that never changes. It is that of the
            base as it is served: beside a quantised one an adapter would look good that only mends the quantisation.
        served: evaluate the adapter on the base as it is served, too.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        adapter: Adapter,
        objective: Objective,
        base_loss: float | None,
        *,
        served: bool = False,
    ) -> None:
        self.served = served
        self._samples = sorted(samples, key=lambda sample: sample.tokens, reverse=True)
        self._objective = objective
        self._size = sum(objective.size(sample) for sample in samples)
        self._targets = sum(sample.targets for sample in samples)
        self._base_loss = base_loss if base_loss is not None else objective.neutral_loss
        self._passes = [_Pass(adapter, served)]
        if self._base_loss is None:
            self._passes.append(_Pass(None, served=True))
        self._ahead = 0
        self._pass = self._next = 0

    @property
    def done(self) -> bool:
        """Whether both losses are known."""
        return self._pass == len(self._passes)

    @property
    def valid_loss(self) -> float:
        """The adapter's."""
        return self._passes[0].total / self._size

    @property
    def base_valid_loss(self) -> float:
        """The base model's, or that of a model which is no better than the objective's reference."""
        return self._passes[1].total / self._size if self._base_loss is None else self._base_loss

    @property
    def accuracy(self) -> float | None:
        """The share of target tokens that the adapter holds likeliest; None where the objective does not want them."""
        return self._passes[0].hits / self._targets if self._objective.imitates else None

    @property
    def reward_accuracy(self) -> float | None:
        """Comparisons in which the preferred reply is ahead of the reference's view; None where nothing is compared."""
        return None if self._objective.reference is None else self._ahead / len(self._samples)

    def advance(self, base: BaseModel, room: int) -> None:
        """One micro-batch of at most `room` tokens for each rank, or one sample. Counts only if it gets through."""
        samples, now = self.upcoming(room * base.crew.size), self._passes[self._pass]
        share = Share(samples, now.adapter, self._objective)
        with base.as_served() if now.served else nullcontext():
            look_up_references([share], base, room)
            losses_N, hits_N = base.look([share], room)
            judged = self._objective.judge(samples, losses_N)
        total, ahead, hits = float(judged.total), int(judged.ahead), int(hits_N.sum())
        now.total += total
        now.hits += hits
        self._ahead += ahead
        self._next += len(samples)
        if self._next == len(self._samples):
            self._pass, self._next = self._pass + 1, 0

    def upcoming(self, budget: int) -> list[Sample]:
        """The next micro-batch."""
        taken, tokens = self._next, 0
        while taken < len(self._samples) and (
            taken == self._next or tokens + self._samples[taken].tokens <= budget
        ):
            tokens += self._samples[taken].tokens
            taken += 1
        return self._samples[self._next : taken]


def look_up_references(shares: Sequence[Share], base: BaseModel, room: int | None = None) -> None:
    """One look at whatever the shares' references have not seen yet; after the first epoch there is nothing left."""
    asked = []
    for share in shares:
        reference = share.objective.reference
        if reference is not None and (missing := reference.missing(share.samples)):
            asked.append((reference, Share(missing, reference.adapter, share.objective)))
    if asked:
        told_2N = base.look([share for _, share in asked], room)
        parts = by_share([share for _, share in asked], told_2N)
        for (reference, share), (losses_N, _) in zip(asked, parts, strict=True):
            reference.note(share.samples, losses_N)


def evaluation_due(step: int, steps_per_epoch: int) -> bool:
    """Whether held-out loss is wanted after `step` steps: at the end of each epoch, and within long ones."""
    within = step % steps_per_epoch
    if within == 0:
        return step > 0
    return steps_per_epoch >= LONG_EPOCH and within % math.ceil(steps_per_epoch / QUARTERS) == 0
