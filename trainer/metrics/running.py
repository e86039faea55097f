"""Jobs while they run: how far they are, and how fast. Their series go with them."""

from collections.abc import Mapping

from adapters.records import Job, Progress
from trainer.metrics.instruments import Instruments


class RunningJobs:
    """The jobs of one worker."""

    def __init__(self, instruments: Instruments, base_model: str) -> None:
        self._all = instruments
        self._steps = instruments.steps.labels(base_model)
        self._tokens = instruments.tokens.labels(base_model)
        #: By job, what has been counted: the step, and the tokens up to it where they are known.
        self._counted: dict[str, tuple[int, int | None]] = {}
        self._unstepped: set[str] = set()

    def begin(self, job: Job, step: int) -> None:
        """It trains from here. An attempt that goes on says nothing of tokens until its first step."""
        self._counted[job.id] = (step, None if step else 0)
        if not step:
            self._unstepped.add(job.id)

    def step(self, job: Job, progress: Progress, rates: Mapping[str, float]) -> bool:
        """Count and show; steps may have been left out in between. True where it is the job's first."""
        step, tokens = self._counted.get(job.id, (progress.step, None))
        self._steps.inc(max(0, progress.step - step))
        if tokens is not None:
            self._tokens.inc(max(0, progress.tokens_seen - tokens))
        self._counted[job.id] = (progress.step, progress.tokens_seen)
        shown = {
            **rates,
            "progress_ratio": progress.percent / 100,
            "loss": progress.train_loss,
            "valid_loss": progress.valid_loss,
            "tokens_per_second": progress.tokens_per_second,
        }
        for name, value in shown.items():
            if value is not None:
                self._all.by_job[name].labels(job.id).set(value)
        first = job.id in self._unstepped
        self._unstepped.discard(job.id)
        return first

    def checkpoint(self, job: Job, now: float) -> None:
        """It is durable up to here."""
        self._all.by_job["checkpoint_timestamp_seconds"].labels(job.id).set(now)

    def forget(self, job: Job) -> None:
        """It does not run here any more."""
        self._counted.pop(job.id, None)
        self._unstepped.discard(job.id)
        for gauge in self._all.by_job.values():
            gauge.remove_by_labels({"job_id": job.id})
