"""What is trained in the training benchmarks, and the two who train it: our loop, and PEFT as its documentation has it.

Both get the same rows in the same order, the same initial weights, learning rates, clipping and decay, in float32 on
one thread. Both report every step's loss and gradient norm, which must agree: nobody is fast by doing less.

Shapes: S rows, M longest row.
"""

import itertools
import math
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForCausalLM

from adapters.records import OptimizerSpec, TrainingSpec
from bench.proof import Outcome
from trainer.messages import Stepped
from trainer.warm.adapter import Adapter
from trainer.warm.batch import Row
from trainer.warm.data import Dataset
from trainer.warm.job import Identity, Job
from trainer.warm.loop import Limits, Loop
from trainer.warm.model import BaseModel
from trainer.warm.schedule import learning_rate

#: As in service: `TrainerSettings.token_budget`.
TOKEN_BUDGET = 1024
#: So many epochs that no run ends in a benchmark.
EPOCHS = 10_000
IGNORED = -100
#: Steps before the clock starts: the first one allocates the optimizer's state and meets every shape.
UNTIMED_STEPS = 1


@dataclass(frozen=True, slots=True)
class Lesson:
    """One job's data: the rows of its only batch, which every step sees again."""

    seed: int
    rows: tuple[Row, ...]

    @property
    def tokens(self) -> int:
        """Real ones; padding is nobody's work."""
        return sum(len(row) for row in self.rows)

    @property
    def spec(self) -> TrainingSpec:
        """Our defaults, but for the warm-up: steps of a full learning rate change more."""
        return TrainingSpec(
            optimizer=OptimizerSpec(warmup_ratio=0.0),
            n_epochs=EPOCHS,
            batch_size=len(self.rows),
            seed=self.seed,
        )


def lesson(seed: int, lengths: Sequence[int]) -> Lesson:
    """Random tokens, of which the last half of each row is the target."""
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for length in lengths:
        targets = torch.arange(length) >= length // 2
        rows.append(Row(torch.randint(100, 40_000, (length,), generator=generator), targets))
    return Lesson(seed, tuple(rows))


class OurLoop:
    """All lessons at once, as jobs of one loop."""

    def __init__(self, base: BaseModel) -> None:
        self._base = base

    def train(self, lessons: Sequence[Lesson], steps: int) -> Outcome:
        """Steps of every lesson."""
        reports: list[Any] = []
        # A clock that runs a second at each look has every step reported, not only five a second.
        clock = itertools.count(0.0, 1.0).__next__
        loop = Loop(self._base, reports.append, Limits(TOKEN_BUDGET, math.inf), clock)
        for one in lessons:
            loop.admit(self._job(one))
        for _ in range(UNTIMED_STEPS):
            loop.turn()
        began = time.perf_counter()
        for _ in range(steps):
            loop.turn()
        took = time.perf_counter() - began
        return Outcome(
            took,
            *_by_lesson(lessons, [r for r in reports if isinstance(r, Stepped)], steps),
        )

    def initial(self, one: Lesson) -> Adapter:
        """The adapter that a lesson starts from."""
        device, dtype = self._base.device, self._base.dtype
        return Adapter(self._base.linears, one.spec.lora, seed=one.seed, device=device, dtype=dtype)

    def _job(self, one: Lesson) -> Job:
        nowhere = Path(tempfile.gettempdir()) / "graft-bench-writes-no-checkpoints"
        identity = Identity(
            job_id=str(one.seed), attempt=1, work_dir=nowhere, dataset_digest="random"
        )
        return Job(identity, one.spec, Dataset(one.rows, (), 0, 0), self.initial(one))


def _by_lesson(
    lessons: Sequence[Lesson], reports: Sequence[Stepped], steps: int
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    losses: list[float] = []
    norms: list[float] = []
    for one in lessons:
        own = [report for report in reports if report.job_id == str(one.seed)]
        assert len(own) == steps + UNTIMED_STEPS, "a turn was not a step of every job"
        losses += [report.progress.train_loss or math.nan for report in own]
        norms += [report.grad_norm for report in own]
    return tuple(losses), tuple(norms)


class PlainPeft:
    """One lesson after the other on a model that stays in memory; batches are padded to their longest row."""

    def __init__(self, directory: Path, spec: TrainingSpec, targets: Sequence[str]) -> None:
        model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
        config = LoraConfig(
            r=spec.lora.rank,
            lora_alpha=int(spec.lora.alpha),
            target_modules=list(targets),
            task_type="CAUSAL_LM",
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._model: Any = get_peft_model(model, config)
        self._model.train()
        self._factors = {
            name.removeprefix("base_model.model.").removesuffix(".default.weight"): parameter
            for name, parameter in self._model.named_parameters()
            if parameter.requires_grad
        }

    def train(
        self, lessons: Sequence[Lesson], steps: int, initial: Callable[[Lesson], Adapter]
    ) -> Outcome:
        """Steps of every lesson. Between lessons the clock stands still: changing jobs is free for the peer."""
        took = 0.0
        losses: list[float] = []
        norms: list[float] = []
        for one in lessons:
            self._start_from(initial(one).views())
            # The fused one is what the Trainer of transformers takes by default, and the fastest on a CPU.
            optimizer = torch.optim.AdamW(
                self._factors.values(), weight_decay=one.spec.optimizer.weight_decay, fused=True
            )
            for step in range(UNTIMED_STEPS + steps):
                began = time.perf_counter()
                loss, norm = self._step(one, optimizer, step)
                took += (time.perf_counter() - began) if step >= UNTIMED_STEPS else 0.0
                losses.append(loss)
                norms.append(norm)
        return Outcome(took, tuple(losses), tuple(norms))

    def _step(
        self, one: Lesson, optimizer: torch.optim.Optimizer, step: int
    ) -> tuple[float, float]:
        chosen = one.spec.optimizer
        loss = self._model(**_padded(one.rows), use_cache=False).loss
        optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self._factors.values(), chosen.max_grad_norm)
        optimizer.param_groups[0]["lr"] = learning_rate(
            chosen.learning_rate, chosen.warmup_ratio, step, EPOCHS
        )
        optimizer.step()
        return float(loss.detach()), float(norm)

    def _start_from(self, views: Mapping[str, tuple[Tensor, Tensor]]) -> None:
        assert len(self._factors) == 2 * len(views), "the peer adapts other layers"
        with torch.no_grad():
            for name, (down, up) in views.items():
                self._factors[f"{name}.lora_A"].copy_(down)
                self._factors[f"{name}.lora_B"].copy_(up)


def _padded(rows: Sequence[Row]) -> dict[str, Tensor]:
    """What a data collator makes of rows [S, M]."""
    labels = [torch.where(row.is_target_T, row.tokens_T, IGNORED) for row in rows]
    tokens = [row.tokens_T for row in rows]
    there = [torch.ones_like(row.tokens_T) for row in rows]
    return {
        "input_ids": pad_sequence(tokens, batch_first=True),
        "attention_mask": pad_sequence(there, batch_first=True),
        "labels": pad_sequence(labels, batch_first=True, padding_value=IGNORED),
    }
