"""Training against peers, on the demo model: what a turn of ours saves, and how much of the machine is left to gain.

Everyone trains the same rows from the same initial weights in float32 with AdamW, and everyone's losses and gradient
norms agree step by step. Everyone is warm: only optimizer steps are on the clock, after one that is not; whatever a
peer does between two jobs is free.
"""

import contextlib
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch
from transformers.utils.logging import disable_progress_bar

from bench.contest import OURS, Stage, Train, contest
from bench.demo import demo_model
from bench.lessons import OurLoop
from bench.limit import LIMIT, OURS as OUR_LIMIT, MatrixProducts
from bench.measure import Settings
from bench.plain_peft import PlainPeft
from bench.proof import Outcome
from bench.rivals.client import Rival, rival
from bench.table import Row, Table
from bench.workloads import RANK, Lesson, Workload, chosen, workloads
from trainer.warm.matmul import Matmul

PEFT = "peft"
#: By the name of their environment and worker.
RIVALS = {"trl": "TRL", "llamafactory": "LLaMA-Factory"}


def run(settings: Settings) -> Table:
    """Every workload, everyone once a round."""
    asked = chosen(workloads(), settings.workloads)
    disable_progress_bar()
    torch.set_num_threads(settings.threads)
    rows: list[Row] = []
    with contestants(settings) as stage:
        for workload in asked:
            rows += contest(settings.rounds, stage, workload)
    return Table(
        name="train",
        what=(
            "real (not padding) tokens a second in optimizer steps of warm jobs, half of the tokens targets; with us all "
            "jobs of a workload at once, with a peer one after the other. Demo model, rank 16, all layers, float32, "
            f"{settings.threads} threads; same rows, same initial weights; losses and gradient norms of all steps agree. "
            "Rivals' bfloat16 is off, their rows come tokenised, changing jobs is not on their clock. 'tuned' is "
            "without gradient checkpointing, and in TRL without padding. 'of the limit': share of the rate at which "
            "this machine does nothing but the frozen weights' matrix products of the same step, counted as "
            "4 x (body weights x tokens + head weights x target tokens), made by the library that everyone multiplies "
            "with, as it is fastest, or by the kernel that ours trains with; ours is credited with the adapters' own products too, "
            "6 x adapter weights x tokens, and nobody with a row's last token, which is only ever predicted"
        ),
        rows=rows,
    )


@contextlib.contextmanager
def contestants(settings: Settings) -> Iterator[Stage]:
    """Everyone, warm: the demo model is in memory once for each, and the rivals have imported everything."""
    directory = demo_model(settings)
    with contextlib.ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="graft-bench-")))
        # Before the models are loaded, so that the imports overlap.
        rivals = {
            name: stack.enter_context(rival(settings, name, directory, scratch / f"{name}.log"))
            for name in RIVALS
            if wanted(settings, name)
        }
        ours = OurLoop.of_directory(directory)
        peft = PlainPeft.of_directory(directory, ours.targets)
        initial = Initial(ours, scratch)
        for each in rivals.values():
            each.wait_until_ready()
        trainers: dict[str, Train] = {OURS: lambda w: ours.train(w.lessons, w.steps)}
        if wanted(settings, PEFT):
            trainers["plain PEFT"] = lambda w: peft.train(w.lessons, w.steps, ours.initial_weights)
        for name, each in rivals.items():
            trainers[RIVALS[name]] = partial(_train_rival, each, initial, tuned=False)
            trainers[f"{RIVALS[name]} tuned"] = partial(_train_rival, each, initial, tuned=True)
        yield Stage(
            trainers,
            {
                name: MatrixProducts(peft.frozen, peft.head, RANK, matmul)
                for name, matmul in ((LIMIT, Matmul()), (OUR_LIMIT, ours.matmul))
            },
        )


def wanted(settings: Settings, peer: str) -> bool:
    """Whether a peer takes part."""
    return not settings.peers or peer in settings.peers


def _train_rival(each: Rival, initial: "Initial", workload: Workload, *, tuned: bool) -> Outcome:
    return each.train(workload.lessons, workload.steps, initial.directory, tuned=tuned)


class Initial:
    """The adapters that lessons start from, written once each, as PEFT has them."""

    def __init__(self, ours: OurLoop, directory: Path) -> None:
        self._ours = ours
        self._directory = directory

    def directory(self, one: Lesson) -> Path:
        """Where it lies."""
        # Only the seed decides it: another lesson of the same seed starts from the same.
        directory = self._directory / f"initial-{one.seed}"
        if not directory.exists():
            self._ours.export_initial(one, directory)
        return directory
