"""One job under training: what it has done, what its next optimizer step needs, how that step ends.

A job knows nothing of its neighbours. Its data order, dropout and schedule are functions of its seed and step, its
gradients are sums over its own tokens, weighted by its own count: who it is batched with cannot show.

Shapes: P all parameters.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from adapters.records import TrainingSpec
from trainer.warm.adapter import Adapter
from trainer.warm.batch import Row, Share
from trainer.warm.data import Dataset
from trainer.warm.evaluate import Evaluation, evaluation_due
from trainer.warm.optimizer import clip, gradient_norm, update
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
    #: Of the current epoch: the sum of target tokens' losses, and their number.
    epoch_loss: float = 0.0
    epoch_targets: int = 0
    last_loss: float | None = None
    evaluated_step: int = 0
    valid_loss: float | None = None
    base_valid_loss: float | None = None
    best_valid_loss: float | None = None
    best_step: int = 0
    #: The loss that the next evaluations must beat by `min_delta`, and how many have failed to.
    loss_to_beat: float | None = None
    evaluations_without_gain: int = 0
    stopped_early: bool = False


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

    #: Mean over the step's target tokens.
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
        self, identity: Identity, spec: TrainingSpec, dataset: Dataset, adapter: Adapter
    ) -> None:
        self.identity = identity
        self.spec = spec
        self.dataset = dataset
        self.adapter = adapter
        self.state = JobState()
        self.best_P: Tensor | None = None
        self.evaluation: Evaluation | None = None
        self.steps_per_epoch = math.ceil(len(dataset.train) / spec.batch_size)
        self.total_steps = spec.n_epochs * self.steps_per_epoch
        self._epoch_order: tuple[int, list[int]] = (-1, [])
        self._step_rows: list[Row] = []
        self._waiting: list[int] = []
        self._in_flight = False
        self._step_loss = 0.0

    # -- the current optimizer step

    def take(self, budget: int, *, at_least_one: bool) -> Share | None:
        """The job's rows for the next micro-batch: the longest first, then whatever still fits into `budget` tokens.

        Long rows first keep rows of similar length together, so that attention pads little.
        """
        if not self._in_flight:
            self._begin_step()
        chosen: list[int] = []
        left = budget
        for at in self._waiting:
            length = len(self._step_rows[at])
            if length <= left or (at_least_one and not chosen):
                chosen.append(at)
                left -= length
        if not chosen:
            return None
        self._waiting = [at for at in self._waiting if at not in set(chosen)]
        return Share(
            [self._step_rows[at] for at in chosen],
            self.adapter,
            1.0 / self._step_targets(),
            [self._row_seed(at) for at in chosen],
        )

    def add_loss(self, total: float) -> None:
        """Count the losses (a sum over target tokens) of a micro-batch whose gradients have been added."""
        self._step_loss += total

    @property
    def step_complete(self) -> bool:
        """Whether every row of the step has been through."""
        return self._in_flight and not self._waiting

    def restart_step(self) -> None:
        """Forget what the interrupted step has accumulated; it is computed anew, to the same result."""
        self.adapter.gradient_P.zero_()
        self._in_flight = False

    def finish_step(self) -> StepDone:
        """Clip and step, if the gradient is finite; count either way."""
        state, optimizer = self.state, self.spec.optimizer
        targets, tokens = self._step_targets(), sum(len(row) for row in self._step_rows)
        rate = learning_rate(
            optimizer.learning_rate, optimizer.warmup_ratio, state.step, self.total_steps
        )
        norm = gradient_norm(self.adapter)
        loss = self._step_loss / targets
        finite = math.isfinite(norm) and math.isfinite(loss)
        if finite:
            state.updates += 1
            state.skipped_in_a_row = 0
            clip(self.adapter, norm, optimizer.max_grad_norm)
            update(self.adapter, state.updates, rate, optimizer.weight_decay)
            self._count_loss(loss, targets)
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
        self._step_rows = [self.dataset.train[row] for row in chosen]
        self._waiting = sorted(range(len(chosen)), key=lambda at: -len(self._step_rows[at]))
        self._step_loss = 0.0
        self._in_flight = True

    def _order(self, epoch: int) -> list[int]:
        """The epoch's permutation; a function of seed and epoch, so that resuming needs no generator state."""
        if self._epoch_order[0] != epoch:
            generator = torch.Generator().manual_seed((self.spec.seed * 100_003 + epoch) % 2**63)
            order = torch.randperm(len(self.dataset.train), generator=generator).tolist()
            self._epoch_order = (epoch, order)
        return self._epoch_order[1]

    def _row_seed(self, at: int) -> int:
        return (self.spec.seed * self.total_steps + self.state.step) * self.spec.batch_size + at

    def _step_targets(self) -> int:
        return sum(row.targets for row in self._step_rows)

    def _count_loss(self, loss: float, targets: int) -> None:
        state = self.state
        if state.step % self.steps_per_epoch == 0:
            state.epoch_loss, state.epoch_targets = 0.0, 0
        state.epoch_loss += loss * targets
        state.epoch_targets += targets
        state.last_loss = loss

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
        """Mean over the target tokens of the latest epoch."""
        return self.state.epoch_loss / max(1, self.state.epoch_targets)

    def wants_evaluation(self) -> bool:
        """Whether held-out loss is due after the step that was just made, and not yet known."""
        state = self.state
        due = evaluation_due(state.step, self.steps_per_epoch)
        return bool(self.dataset.valid) and due and state.evaluated_step < state.step

    def begin_evaluation(self) -> Evaluation:
        """No step is made until it has ended."""
        self.evaluation = Evaluation(self.dataset.valid, self.adapter, self.state.base_valid_loss)
        return self.evaluation

    def end_evaluation(self, valid_loss: float, base_valid_loss: float) -> bool:
        """Remember the best weights, and whether to stop early. Returns whether these are the best yet."""
        state, stopping = self.state, self.spec.early_stopping
        self.evaluation = None
        state.evaluated_step = state.step
        state.base_valid_loss = base_valid_loss
        best = math.isfinite(valid_loss) and _less(valid_loss, state.best_valid_loss)
        if best:
            state.best_valid_loss, state.best_step = valid_loss, state.step
            self.best_P = self.adapter.weights_P.clone()
        if math.isfinite(valid_loss):
            state.valid_loss = valid_loss
        if math.isfinite(valid_loss) and _less(valid_loss + stopping.min_delta, state.loss_to_beat):
            state.loss_to_beat, state.evaluations_without_gain = valid_loss, 0
        else:
            state.evaluations_without_gain += 1
        out_of_patience = state.evaluations_without_gain >= stopping.patience
        unfinished = state.step < self.total_steps
        state.stopped_early = stopping.enabled and out_of_patience and unfinished
        return best

    def take_best(self) -> int:
        """Load the weights to publish: the best ones, or the last where nothing was held out. Returns their step."""
        if self.best_P is None:
            return self.state.step
        self.adapter.load(self.best_P)
        return self.state.best_step


def _less(loss: float, other: float | None) -> bool:
    return other is None or loss < other
