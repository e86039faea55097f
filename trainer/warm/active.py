"""A job in the loop: the job, who is told of it, and when it was last made durable."""

from concurrent.futures import Future
from dataclasses import dataclass

from trainer.messages import Exported
from trainer.warm.job import Job
from trainer.warm.progress import ProgressReporter


@dataclass(slots=True)
class Active:
    """A job that has been admitted and has not ended."""

    job: Job
    progress: ProgressReporter
    checkpointed_at: float
    exported_at: float
    #: A checkpoint is wanted as soon as it is past this step; see `Admit.prove_past`.
    prove_past: int | None = None
    #: What is being exported on the way, or has been and was not told of yet.
    exporting: Future[Exported] | None = None
    #: Not even one sample fits unless layers are computed twice.
    tight: bool = False

    @property
    def wants_rows(self) -> bool:
        """Whether it is in the middle of training."""
        job = self.job
        return job.evaluation is None and not job.trained and not job.wants_evaluation()

    @property
    def ended(self) -> bool:
        """Whether nothing is left but to publish it."""
        job = self.job
        return job.evaluation is None and job.trained and not job.wants_evaluation()

    def wants_checkpoint(self, now: float, pause: float) -> bool:
        """Whether the last one is `pause` seconds old, or a proof is due, which is wanted once."""
        proven = self.prove_past is not None and self.job.state.step > self.prove_past
        if proven:
            self.prove_past = None
        return proven or now - self.checkpointed_at >= pause
