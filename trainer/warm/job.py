"""One job under training: what it has done, what its next optimizer step needs, how that step ends.

A job knows nothing of its neighbours. Its data order, dropout and schedule are functions of its seed and step, its
gradients are sums over its own samples, divided by its own step's size: who it is batched with cannot show.

Shapes: P all parameters.
"""

import math
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from adapters.spec import TrainingSpec
from trainer.warm.adapter import Adapter
from trainer.warm.batch import Share
from trainer.warm.data import Dataset
from trainer.warm.evaluate import Evaluation, evaluation_due
from trainer.warm.objective import Objective
from trainer.warm.optimizer import clip, gradient_norm, update
from trainer.warm.rows import Sample
from trainer.warm.scaling import LossScale
from trainer.warm.schedule import learning_rate

#: Optimizer steps with a gradient that is not finite, one after the other, until the job is given up.
PATIENCE_WITH_NAN = 3


@dataclass(slots=True, kw_only=True)
class JobState:
    """All that a job remembers besides tensors. Written to checkpoints."""

    #: Optimizer steps behind us, skipped ones included; also says where in the data we are.
    step: int = 0
    #: Steps that changed the weights: Adam's own count.
    updates: int = 0
    skipped: int = 0
    skipped_in_a_row: int = 0
    tokens_seen: int = 0
    trained_tokens: int = 0
    seconds: float = 0.0
    #: Of the current epoch: the sum of the samples' losses, and of their sizes.
    epoch_loss: float = 0.0
    epoch_size: float = 0.0
    #: Likewise: target tokens, and how many of them the model held likeliest, before it learned from them.
    epoch_targets: int = 0
    epoch_hits: float = 0.0
    last_loss: float | None = None
    last_accuracy: float | None = None
    evaluated_step: int = 0
    valid_loss: float | None = None
    base_valid_loss: float | None = None
    #: The share of held-out target tokens that are likeliest; of the latest weights, and of those to publish.
    valid_accuracy: float | None = None
    best_valid_accuracy: float | None = None
    reward_accuracy: float | None = None
    #: Of the weights to publish, on the base as it is served, where that is not the one trained on.
    served_valid_loss: float | None = None
    best_valid_loss: float | None = None
    best_step: int = 0
    #: The loss that the next evaluations must beat by `min_delta`, and how many have failed to.
    loss_to_beat: float | None = None
    evaluations_without_gain: int = 0
    stopped_early: bool = False
    scale: LossScale = field(default_factory=LossScale)


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Which job this is, and where it keeps its files."""

    job_id: str
    attempt: int
    work_dir: Path
    dataset_digest: str


@dataclass(frozen=True, slots=True)
class StepDone:
    """What came of an optimizer step."""

    #: Mean over the step's samples, by size: over target tokens, or over pairs.
    loss: float
    learning_rate: float
    #: Before clipping.
    grad_norm: float
    tokens: int
    #: The gradient was not finite, so the weights stayed as they were.
    skipped: bool


class Job:
    """A job that has been admitted."""

    def __init__(
        self,
        identity: Identity,
        spec: TrainingSpec,
        dataset: Dataset,
        adapter: Adapter,
        objective: Objective,
    ) -> None:
        self.identity = identity
        self.spec = spec
        self.dataset = dataset
        self.adapter = adapter
        self.objective = objective
        self.state = JobState()
        self.best_P: Tensor | None = None
        self.evaluation: Evaluation | None = None
        self.steps_per_epoch = math.ceil(len(dataset.train) / spec.batch_size)
        self.total_steps = spec.n_epochs * self.steps_per_epoch
        self._epoch_order: tuple[int, list[int]] = (-1, [])
        self._step_samples: list[Sample] = []
        self._step_size = 1.0
        self._waiting: list[int] = []
        self._in_flight = False
        self._step_loss = self._step_hits = 0.0

    # -- the current optimizer step

    def take(self, budget: int, *, at_least_one: bool) -> Share | None:
        """The job's samples for the next micro-batch: the longest first, then whatever still fits into `budget` tokens.

        Long ones first keep rows of similar length together, so that attention pads little.
        """
        if not self._in_flight:
            self._begin_step()
        chosen: list[int] = []
        left = budget
        for at in self._waiting:
            length = self._step_samples[at].tokens
            if length <= left or (at_least_one and not chosen):
                chosen.append(at)
                left -= length
        if not chosen:
            return None
        taken = set(chosen)
        self._waiting = [at for at in self._waiting if at not in taken]
        return Share(
            [self._step_samples[at] for at in chosen],
            self.adapter,
            self.objective,
            self._step_size / self.state.scale.factor,
            [seed for at in chosen for seed in self._row_seeds(at)],
        )

    def count(self, loss: float, hits: float) -> None:
        """Count the losses of a micro-batch (a sum) whose gradients have been added, and its likeliest targets."""
        self._step_loss += loss
        self._step_hits += hits

    @property
    def step_complete(self) -> bool:
        """Whether every sample of the step has been through."""
        return self._in_flight and not self._waiting

    def restart_step(self) -> None:
        """Forget what the interrupted step has accumulated; it is computed anew, to the same result."""
        self.adapter.gradient_P.zero_()
        self._in_flight = False

    def finish_step(self) -> StepDone | None:
        """Clip and step, if the gradient is finite; count either way.

        Returns:
            None if the step is to be computed anew, with its loss scaled less.
        """
        state, optimizer = self.state, self.spec.optimizer
        tokens = sum(sample.tokens for sample in self._step_samples)
        targets = sum(sample.targets for sample in self._step_samples)
        rate = learning_rate(
            optimizer.learning_rate, optimizer.warmup_ratio, state.step, self.total_steps
        )
        norm = gradient_norm(self.adapter) / state.scale.factor
        loss = self._step_loss / self._step_size
        finite = math.isfinite(norm) and math.isfinite(loss)
        if not finite and state.scale.lower():
            self.restart_step()
            return None
        if finite:
            state.updates += 1
            state.skipped_in_a_row = 0
            state.scale.undo(self.adapter.gradient_P)
            clip(self.adapter, norm, optimizer.max_grad_norm)
            update(self.adapter, state.updates, rate, optimizer)
            self._count(loss, targets)
        else:
            state.skipped += 1
            state.skipped_in_a_row += 1
        state.step += 1
        state.tokens_seen += tokens
        state.trained_tokens += targets
        self.adapter.gradient_P.zero_()
        self._in_flight = False
        return StepDone(loss, rate, norm, tokens, skipped=not finite)

    def _begin_step(self) -> None:
        size = self.spec.batch_size
        epoch, at = divmod(self.state.step, self.steps_per_epoch)
        chosen = self._order(epoch)[at * size : (at + 1) * size]
        self._step_samples = [self.dataset.train[sample] for sample in chosen]
        self._step_size = sum(self.objective.size(sample) for sample in self._step_samples)
        self._waiting = sorted(range(len(chosen)), key=lambda at: -self._step_samples[at].tokens)
        self._step_loss = self._step_hits = 0.0
        self._in_flight = True

    def _order(self, epoch: int) -> list[int]:
        """The epoch's permutation; a function of seed and epoch, so that resuming needs no generator state."""
        if self._epoch_order[0] != epoch:
            generator = torch.Generator().manual_seed((self.spec.seed * 100_003 + epoch) % 2**63)
            order = torch.randperm(len(self.dataset.train), generator=generator).tolist()
            self._epoch_order = (epoch, order)
        return self._epoch_order[1]

    def _row_seeds(self, at: int) -> list[int]:
        sample = (self.spec.seed * self.total_steps + self.state.step) * self.spec.batch_size + at
        rows = len(self._step_samples[at].rows)
        return [sample * rows + row for row in range(rows)]

    def _count(self, loss: float, targets: int) -> None:
        state = self.state
        if state.step % self.steps_per_epoch == 0:
            state.epoch_loss, state.epoch_size = 0.0, 0.0
            state.epoch_targets, state.epoch_hits = 0, 0.0
        state.epoch_loss += loss * self._step_size
        state.epoch_size += self._step_size
        state.last_loss = loss
        if self.objective.imitates:
            state.epoch_targets += targets
            state.epoch_hits += self._step_hits
            state.last_accuracy = self._step_hits / targets

    # -- evaluation and the end

    @property
    def diverged(self) -> bool:
        """Whether the job is beyond help."""
        return self.state.skipped_in_a_row >= PATIENCE_WITH_NAN

    @property
    def trained(self) -> bool:
        """Whether no optimizer step follows."""
        return self.state.stopped_early or self.state.step >= self.total_steps

    @property
    def train_loss(self) -> float:
        """Mean over the latest epoch's samples, by size."""
        return self.state.epoch_loss / (self.state.epoch_size or 1.0)

    @property
    def train_accuracy(self) -> float | None:
        """The share of the latest epoch's target tokens that were likeliest; None where none were wanted."""
        state = self.state
        return state.epoch_hits / state.epoch_targets if state.epoch_targets else None

    def wants_export(self, *, lately: bool) -> bool:
        """Whether the adapter shall be exported as it is after the step that was just made.

        Where an epoch ends, unless that was done `lately`. At the very end in any case, unless the same weights are
        published.
        """
        if self.trained:
            return self.best_P is not None and self.state.best_step < self.state.step
        return not lately and self.state.step % self.steps_per_epoch == 0

    def wants_evaluation(self) -> bool:
        """Whether held-out loss is due after the step that was just made, and not yet known."""
        state = self.state
        due = evaluation_due(state.step, self.steps_per_epoch)
        return bool(self.dataset.valid) and due and state.evaluated_step < state.step

    def begin_evaluation(self) -> Evaluation:
        """No step is made until it has ended."""
        self.evaluation = Evaluation(
            self.dataset.valid, self.adapter, self.objective, self.state.base_valid_loss
        )
        return self.evaluation

    def end_evaluation(self) -> bool:
        """Remember the best weights, and whether to stop early. Returns whether these are the best yet."""
        state, stopping, evaluation = self.state, self.spec.early_stopping, self.evaluation
        assert evaluation is not None
        self.evaluation = None
        valid_loss = evaluation.valid_loss
        state.evaluated_step = state.step
        state.base_valid_loss = evaluation.base_valid_loss
        best = math.isfinite(valid_loss) and _less(valid_loss, state.best_valid_loss)
        if best:
            state.best_valid_loss, state.best_step = valid_loss, state.step
            state.best_valid_accuracy = evaluation.accuracy
            state.reward_accuracy = evaluation.reward_accuracy
            self.best_P = self.adapter.weights_P.clone()
        if math.isfinite(valid_loss):
            state.valid_loss, state.valid_accuracy = valid_loss, evaluation.accuracy
        if math.isfinite(valid_loss) and _less(valid_loss + stopping.min_delta, state.loss_to_beat):
            state.loss_to_beat, state.evaluations_without_gain = valid_loss, 0
        else:
            state.evaluations_without_gain += 1
        out_of_patience = state.evaluations_without_gain >= stopping.patience
        unfinished = state.step < self.total_steps
        state.stopped_early = stopping.enabled and out_of_patience and unfinished
        return best

    def wants_served_evaluation(self) -> bool:
        """Whether the weights to publish have yet to be evaluated on the base as it is served."""
        return self.trained and bool(self.dataset.valid) and self.state.served_valid_loss is None

    def begin_served_evaluation(self) -> None:
        """Of the weights to publish."""
        self.take_best()
        objective, base_loss = self.objective.anew(), self.state.base_valid_loss
        self.evaluation = Evaluation(
            self.dataset.valid, self.adapter, objective, base_loss, served=True
        )

    def end_served_evaluation(self) -> bool:
        """Remember what came of it. Returns whether it is a number."""
        state, evaluation = self.state, self.evaluation
        assert evaluation is not None
        self.evaluation = None
        state.best_valid_accuracy = evaluation.accuracy
        state.reward_accuracy = evaluation.reward_accuracy
        if finite := math.isfinite(evaluation.valid_loss):
            state.served_valid_loss = evaluation.valid_loss
        return finite

    @property
    def step_to_publish(self) -> int:
        """That of the best weights, or the last where nothing was held out."""
        return self.state.step if self.best_P is None else self.state.best_step

    def take_best(self) -> None:
        """Load the weights of `step_to_publish`."""
        if self.best_P is not None:
            self.adapter.load(self.best_P)


def _less(loss: float, other: float | None) -> bool:
    return other is None or loss < other
