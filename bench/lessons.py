"""Our side of the training benchmarks. Whatever a benchmark needs of the trainer's insides is in this module."""

import math
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from adapters.heap import keep_freed_memory
from adapters.manifest import BaseModelCard
from adapters.settings import LedgerSettings
from adapters.spec import (
    LoraSpec,
    OptimizerSpec,
    TrainingSpec,
)
from bench.proof import Outcome
from bench.workloads import (
    ALPHA,
    LEARNING_RATE,
    MAX_GRAD_NORM,
    RANK,
    UNTIMED_STEPS,
    WEIGHT_DECAY,
    Lesson,
)
from trainer.messages import Stepped
from trainer.warm.adapter import Adapter, suffixes
from trainer.warm.adopt import adopt, load
from trainer.warm.data import Dataset
from trainer.warm.export import PREFIX, export
from trainer.warm.job import Identity, Job
from trainer.warm.limits import limits_for
from trainer.warm.loop import Loop
from trainer.warm.matmul import Matmul
from trainer.warm.model import BaseModel
from trainer.warm.native.library import find_kernels
from trainer.warm.objective import CrossEntropy
from trainer.warm.rows import Row, Sample

#: So many epochs that no run ends in a benchmark.
EPOCHS = 10_000


class OurLoop:
    """All lessons at once, as jobs of one loop."""

    def __init__(self, base: BaseModel, *, token_budget: int = 0) -> None:
        self._base = base
        # Nothing is written to disk: by our clock of a second a look, something would be every few steps.
        self._limits = limits_for(base.device, math.inf, token_budget, export_seconds=math.inf)

    @classmethod
    def of_directory(cls, directory: Path) -> "OurLoop":
        """On a prepared base model, in float32 on the CPU.

        The heap is set as in the warm process, for everyone who trains in this one. What is compiled lies in the home
        folder that the model is in, as the product's does.
        """
        keep_freed_memory()
        home = LedgerSettings(home=directory.parents[1], database_url="")
        kernels = find_kernels(home.compiled_dir)
        return cls(load(directory, torch.device("cpu"), torch.float32, kernels=kernels))

    @classmethod
    def of_model(cls, model: Any, *, token_budget: int) -> "OurLoop":
        """On a transformers model in memory, which it takes over."""
        card = BaseModelCard(
            id="shapes",
            digest="-",
            chat_template_digest="-",
            tokenizer_digest="-",
            architecture=type(model).__name__,
            max_seq_length=model.config.max_position_embeddings,
            linear_modules=(),
        )
        base = adopt(model, _NoTokenizer(), card)
        return cls(base, token_budget=token_budget)

    @property
    def matmul(self) -> Matmul:
        """How products with frozen weights are made."""
        return self._base.head.matmul

    @property
    def targets(self) -> tuple[str, ...]:
        """The names of the layers that are adapted."""
        return suffixes(self._base.linears)

    def train(self, lessons: Sequence[Lesson], steps: int) -> Outcome:
        """Steps of every lesson. A job that has made its steps leaves, as one does that has ended."""
        reports: list[Any] = []
        jobs = [self._job(one) for one in lessons]
        self._advance(self._admit(jobs, reports), jobs, UNTIMED_STEPS)
        loop = self._admit(jobs, reports)
        self._wait()
        began = time.perf_counter()
        self._advance(loop, jobs, UNTIMED_STEPS + steps)
        self._wait()
        took = time.perf_counter() - began
        steps_made = [report for report in reports if isinstance(report, Stepped)]
        return Outcome(took, *_by_lesson(lessons, steps_made, UNTIMED_STEPS + steps))

    def export_initial(self, one: Lesson, directory: Path) -> None:
        """Write the adapter that a lesson starts from, as PEFT has it: everyone starts from the same."""
        export(self._initial(one), directory, base_id="base", dtype=torch.float32)

    def initial_weights(self, one: Lesson) -> dict[str, Tensor]:
        """The same, in memory, by the names that PEFT gives them."""
        weights = {}
        for name, (down, up) in self._initial(one).views().items():
            weights[f"{PREFIX}{name}.lora_A.weight"] = down
            weights[f"{PREFIX}{name}.lora_B.weight"] = up
        return weights

    def _admit(self, jobs: Sequence[Job], reports: list[Any]) -> Loop:
        loop = Loop(self._base, reports.append, self._limits, _Seconds())
        for job in jobs:
            loop.admit(job)
        return loop

    def _advance(self, loop: Loop, jobs: Sequence[Job], steps: int) -> None:
        """Until every job has made so many steps in all."""
        while not loop.idle:
            loop.turn()
            for job in jobs:
                if job.state.step >= steps:
                    loop.drop(job.identity.job_id)

    def _wait(self) -> None:
        """A GPU is told what to do, and does it later."""
        if self._base.device.type == "cuda":
            torch.cuda.synchronize()

    def _initial(self, one: Lesson) -> Adapter:
        return self._base.new_adapter(_spec(one).lora, one.seed)

    def _job(self, one: Lesson) -> Job:
        nowhere = Path(tempfile.gettempdir()) / "graft-bench-writes-no-checkpoints"
        identity = Identity(
            job_id=str(one.seed), attempt=1, work_dir=nowhere, dataset_digest="random"
        )
        return Job(identity, _spec(one), _dataset(one), self._initial(one), CrossEntropy())


class _Seconds:
    """A clock that runs a second at each look: every step is reported, not only five a second."""

    def __init__(self) -> None:
        self._now = 0.0

    def __call__(self) -> float:
        self._now += 1.0
        return self._now


class _NoTokenizer:
    """For models made from shapes: nothing is ever rendered."""

    eos_token_id = None
    chat_template = None


def _spec(one: Lesson) -> TrainingSpec:
    return TrainingSpec(
        lora=LoraSpec(rank=RANK, alpha=ALPHA),
        optimizer=OptimizerSpec(
            learning_rate=LEARNING_RATE,
            weight_decay=WEIGHT_DECAY,
            max_grad_norm=MAX_GRAD_NORM,
            warmup_ratio=0.0,
        ),
        n_epochs=EPOCHS,
        batch_size=len(one.rows),
        seed=one.seed,
    )


def _dataset(one: Lesson) -> Dataset:
    rows = [Row(torch.tensor(row.ids), torch.tensor(row.is_target).float()) for row in one.rows]
    return Dataset(tuple(Sample((row,)) for row in rows), (), 0, 0)


def _by_lesson(
    lessons: Sequence[Lesson], reports: Sequence[Stepped], steps: int
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    losses: list[float] = []
    norms: list[float] = []
    for one in lessons:
        own = [report for report in reports if report.job_id == str(one.seed)]
        assert len(own) == steps, f"{len(own)} steps of job {one.seed} were reported, not {steps}"
        losses += [report.progress.train_loss or math.nan for report in own]
        norms += [report.grad_norm for report in own]
    return tuple(losses), tuple(norms)
