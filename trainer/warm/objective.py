"""What a job optimises: which rows it makes of an example, and what its loss is over the packed forward pass.

The pass yields one number for each target token, its loss -log p (natural log). An objective turns those of a job into
the sum that the job minimises, and into the derivative of that sum by each token's loss; everything before that
(packing, the base model, the adapters' gradients) is common to all, so that unlike jobs share one pass.

A new method is a class here that obeys `Objective`, and a case in `objective_of`.

Shapes: N target tokens of the given samples, S samples, R rows of each.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from adapters.datasets.examples import Comparison, Example
from adapters.errors import InvalidDataset
from adapters.spec import (
    Dpo,
    Method,
    Supervised,
)
from trainer.warm.adapter import Adapter
from trainer.warm.render import Renderer
from trainer.warm.rows import Row, Sample, stack_weights


@dataclass(frozen=True, slots=True)
class Judged:
    """What an objective makes of the token losses of some samples."""

    #: The sum of the samples' losses, a scalar on the pass's device. Divided by their sizes it is the job's loss.
    total: Tensor
    #: The derivative of that sum by each token's loss.
    weights_N: Tensor
    #: Comparisons in which the preferred reply is ahead; 0 where nothing is compared.
    ahead: Tensor | int = 0


@dataclass(slots=True)
class Reference:
    """Another view of the same rows that the loss is relative to, computed once for each sample: it never changes."""

    #: None means the base model as it is.
    adapter: Adapter | None
    #: The sum of token losses of each row of a sample.
    row_losses: dict[Sample, tuple[float, ...]] = field(default_factory=dict)

    def missing(self, samples: Sequence[Sample]) -> list[Sample]:
        """Those that have not been looked at yet."""
        return [sample for sample in samples if sample not in self.row_losses]

    def note(self, samples: Sequence[Sample], losses_N: Tensor) -> None:
        """Remember what the reference thinks of these."""
        sums = iter(row_sums(samples, losses_N.double()).tolist())
        for sample in samples:
            self.row_losses[sample] = tuple(next(sums) for _ in sample.rows)

    def known(self, samples: Sequence[Sample]) -> Tensor:
        """What it thinks of these [S, R], for a checkpoint; NaN where it has not looked yet."""
        unknown = math.nan
        return torch.tensor(
            [self.row_losses.get(sample, [unknown] * len(sample.rows)) for sample in samples],
            dtype=torch.float64,
        )

    def recall(self, samples: Sequence[Sample], known_SR: Tensor) -> None:
        """The inverse. Computed anew in other micro-batches, the numbers would differ in their last bits."""
        for sample, losses in zip(samples, known_SR.tolist(), strict=True):
            if not any(map(math.isnan, losses)):
                self.row_losses[sample] = tuple(losses)


class Objective(Protocol):
    """See the module's docstring."""

    #: Where the loss is relative to something. Known for every sample before it is judged.
    reference: Reference | None
    #: The mean loss of a model that is no better than what it is compared with, where that is known beforehand.
    neutral_loss: float | None
    #: Whether the model is to say the target tokens, so that it means something how often it would.
    imitates: bool

    def samples(self, renderer: Renderer, example: Example) -> list[Sample]:
        """What to train on. Raises InvalidDataset where the example is not of the method's kind."""

    def size(self, sample: Sample) -> float:
        """What the sample counts for in the mean that is the job's loss."""

    def weights(self, samples: Sequence[Sample]) -> Tensor | None:
        """`Judged.weights_N` where it does not depend on the losses, which saves a second look at the logits."""

    def judge(self, samples: Sequence[Sample], losses_N: Tensor) -> Judged:
        """The loss, and its derivative."""

    def anew(self) -> "Objective":
        """The same, for a base model of other weights: what the reference has seen does not hold there."""


class CrossEntropy:
    """Supervised training and continued pre-training: the mean of token losses, by weight."""

    reference: Reference | None = None
    neutral_loss: float | None = None
    imitates = True

    def samples(self, renderer: Renderer, example: Example) -> list[Sample]:
        """Each row by itself."""
        return [Sample((row,)) for row in renderer.rows(example)]

    def size(self, sample: Sample) -> float:
        """Its tokens, by weight."""
        return sum(row.weight for row in sample.rows)

    def weights(self, samples: Sequence[Sample]) -> Tensor:
        """Those of the rows."""
        return stack_weights(samples)

    def judge(self, samples: Sequence[Sample], losses_N: Tensor) -> Judged:
        """A weighted sum."""
        weights_N = stack_weights(samples).to(losses_N)
        return Judged((losses_N * weights_N).sum(), weights_N)

    def anew(self) -> "CrossEntropy":
        """Nothing is remembered."""
        return self


class Preference:
    """Direct preference optimisation: the mean over pairs of Rafailov et al., arXiv:2305.18290, equation 7.

    -log sigmoid(beta ((log p(chosen) - log p_ref(chosen)) - (log p(rejected) - log p_ref(rejected))))
    """

    imitates = False

    def __init__(self, beta: float, reference: Reference) -> None:
        self.beta = beta
        self.reference: Reference | None = reference
        #: A policy that is its own reference has margin 0.
        self.neutral_loss: float | None = math.log(2)

    def samples(self, renderer: Renderer, example: Example) -> list[Sample]:
        """Chosen and rejected, in this order."""
        if not isinstance(example, Comparison):
            message = "the method 'dpo' needs rows that compare two replies"
            raise InvalidDataset(
                f"Line {example.line}: {message}.",
                details=[{"line": example.line, "code": "wrong_method", "message": message}],
            )
        return [Sample(renderer.pair(example))]

    def size(self, sample: Sample) -> float:  # noqa: ARG002  every pair counts the same
        """One pair."""
        return 1.0

    def weights(self, samples: Sequence[Sample]) -> None:  # noqa: ARG002
        """They depend on how the pair stands."""
        return

    def judge(self, samples: Sequence[Sample], losses_N: Tensor) -> Judged:
        """Each token of a reply gets the derivative of its pair's loss."""
        assert self.reference is not None
        rows_S2 = row_sums(samples, losses_N).view(-1, 2)
        known = [self.reference.row_losses[sample] for sample in samples]
        gain_S2 = torch.tensor(known, dtype=rows_S2.dtype, device=rows_S2.device) - rows_S2
        margin_S = self.beta * (gain_S2[:, 0] - gain_S2[:, 1])
        pull_S = self.beta * torch.sigmoid(-margin_S)
        per_row = torch.stack([pull_S, -pull_S], dim=1).flatten()
        counts = torch.tensor([row.targets for row in _rows(samples)], device=losses_N.device)
        return Judged(
            -logsigmoid(margin_S).sum(), per_row.repeat_interleave(counts), (margin_S > 0).sum()
        )

    def anew(self) -> "Preference":
        """With the reference's view still to be taken."""
        assert self.reference is not None
        return Preference(self.beta, Reference(self.reference.adapter))


def objective_of(method: Method, parent: Adapter | None) -> Objective:
    """The objective of a job that starts from `parent`, or from the base model."""
    match method:
        case Supervised():
            return CrossEntropy()
        case Dpo():
            return Preference(method.beta, Reference(parent))


def row_sums(samples: Sequence[Sample], losses_N: Tensor) -> Tensor:
    """The sum of each row's token losses, rows in order."""
    counts = [row.targets for row in _rows(samples)]
    return torch.stack([part.sum() for part in losses_N.split(counts)])


def _rows(samples: Sequence[Sample]) -> list[Row]:
    return [row for sample in samples for row in sample.rows]
