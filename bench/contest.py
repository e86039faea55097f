"""One training workload, ours against plain PEFT, as a row of a table."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers.utils.logging import disable_progress_bar

from bench.demo import demo_model
from bench.lessons import Lesson, OurLoop, PlainPeft
from bench.measure import Settings, interleave
from bench.proof import Outcome, check_same_work
from bench.table import Row
from trainer.warm.adapter import suffixes
from trainer.warm.model import load


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """Lessons, and how many steps of each make one measurement."""

    name: str
    lessons: Sequence[Lesson]
    steps: int

    @property
    def tokens(self) -> int:
        """Real tokens in one measurement."""
        return self.steps * sum(one.tokens for one in self.lessons)


def contests(settings: Settings, workloads: Sequence[Workload]) -> list[Row]:
    """A row for each workload. The demo model is in memory twice, once for each side."""
    torch.set_num_threads(1)  # two threads on a shared machine measure its other tenants
    disable_progress_bar()
    directory = demo_model(settings)
    base = load(directory, torch.device("cpu"), torch.float32)
    ours = OurLoop(base)
    peer = PlainPeft(directory, workloads[0].lessons[0].spec, suffixes(base.linears))
    return [_contest(settings, ours, peer, workload) for workload in workloads]


def _contest(settings: Settings, ours: OurLoop, peer: PlainPeft, workload: Workload) -> Row:
    def train_ours() -> Outcome:
        return ours.train(workload.lessons, workload.steps)

    def train_peer() -> Outcome:
        return peer.train(workload.lessons, workload.steps, ours.initial)

    # Every measurement warms itself up with a step, so no pair has to be thrown away.
    pairs = interleave(settings.rounds, train_ours, train_peer, warm=0)
    for mine, other in pairs:
        check_same_work(mine, other)
    return Row(
        name=workload.name,
        unit="tok/s",
        better="higher",
        ours=[workload.tokens / mine.seconds for mine, _ in pairs],
        peer=[workload.tokens / other.seconds for _, other in pairs],
    )
