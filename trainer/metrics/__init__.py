"""Every instrument of the trainer. One set of them for all workers; each worker has its own view, with its labels."""

from collections.abc import Mapping

from adapters.records import Job, Progress
from trainer.metrics.instruments import Instruments
from trainer.metrics.running import RunningJobs

__all__ = ["Instruments", "Metrics"]


class Metrics:
    """What one worker counts: the jobs of a base model on a device."""

    def __init__(
        self, instruments: Instruments | None = None, *, base_model: str = "", device: str = ""
    ) -> None:
        self.all = instruments or Instruments()
        self._base_model, self._device = base_model, device
        self._running = RunningJobs(self.all, base_model)
        self.all.expect(base_model)

    # ---- the worker itself

    def lives(self, now: float) -> None:
        """Its leases are renewed."""
        self.all.heartbeat.labels(self._base_model, self._device).set(now)

    def holds(self, jobs: int) -> None:
        """So many jobs are in hand."""
        self.all.held.labels(self._base_model, self._device).set(jobs)

    def died(self) -> None:
        """Its training process is gone."""
        self.all.deaths.labels(self._base_model).inc()

    def squeezed(self) -> None:
        """A pass did not fit into memory, and is tried again in smaller ones."""
        self.all.memory_retries.labels(self._base_model).inc()

    def no_ledger(self) -> None:
        """The ledger did not answer."""
        self.all.ledger_failures.labels(self._base_model).inc()

    # ---- a job on its way

    def claimed(self, job: Job, now: float) -> None:
        """It was taken up, for the first time or again."""
        reason = "first" if job.attempt == 1 else "rescued" if job.losses else "resumed"
        self.all.attempts.labels(self._base_model, reason).inc()
        if job.attempt == 1:
            self.all.wait_seconds.labels(self._base_model).observe(max(0.0, now - job.created_at))

    def started(self, job: Job, step: int) -> None:
        """It trains, after so many steps that are done already."""
        self._running.begin(job, step)

    def stepped(self, job: Job, progress: Progress, rates: Mapping[str, float], now: float) -> None:
        """It has got to this step."""
        if self._running.step(job, progress, rates) and job.attempt == 1:
            waited = max(0.0, now - job.created_at)
            self.all.first_step_seconds.labels(self._base_model).observe(waited)

    def checkpointed(self, job: Job, seconds: float, now: float) -> None:
        """Its state is on disk; that took so long."""
        self.all.checkpoint_seconds.labels(self._base_model).observe(seconds)
        self._running.checkpoint(job, now)

    def fenced(self, jobs: int = 1) -> None:
        """So many writes were refused, because the jobs were no longer this worker's."""
        self.all.fenced.labels(self._base_model).inc(jobs)

    def lost(self, jobs: int) -> None:
        """So many jobs went back to the queue and count as lost."""
        self.all.losses.labels(self._base_model).inc(jobs)

    # ---- and at its end

    def succeeded(self, seconds: float, gate: str) -> None:
        """A version was published after so long in training; what its gate said."""
        self.all.gates.labels(self._base_model, gate).inc()
        self._ended("succeeded", seconds)

    def failed(self, code: str, seconds: float) -> None:
        """It failed, for a reason of the user's or of ours."""
        if code == "loss_diverged":
            self.all.nonfinite.labels(self._base_model).inc()
        self._ended("failed_system" if code in _OURS else "failed_user", seconds)

    def forget(self, job: Job) -> None:
        """Drop the series of a job that does not run here any more."""
        self._running.forget(job)

    def _ended(self, outcome: str, seconds: float) -> None:
        self.all.finished.labels(self._base_model, outcome).inc()
        self.all.job_seconds.labels(self._base_model, outcome).observe(seconds)


#: Codes of failures that another dataset or other hyperparameters would not have helped. Lost too often in a row is one
#: that the ledger finds out, at the next claim: that shows in `graft_job_losses_total`.
_OURS = frozenset({"storage_error", "artifact_corrupt", "internal_error", "lease_lost"})
