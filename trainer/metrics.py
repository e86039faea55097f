"""Every instrument of the trainer, by name. Job labels exist while the job runs and go with it."""

from prometheus_client import CollectorRegistry, Counter, Gauge

from adapters.records import Job, Progress


class Metrics:
    """The instruments, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.finished = Counter(
            "graft_jobs_finished", "Jobs that ended here.", ["outcome"], registry=self.registry
        )
        self.deaths = Counter(
            "graft_training_process_deaths",
            "How often a training process died.",
            registry=self.registry,
        )
        self._loss = Gauge(
            "graft_training_loss",
            "Training loss of a running job.",
            ["job"],
            registry=self.registry,
        )
        self._progress = Gauge(
            "graft_training_progress_ratio",
            "How far a running job is, 0 to 1.",
            ["job"],
            registry=self.registry,
        )
        self._speed = Gauge(
            "graft_training_tokens_per_second",
            "Tokens that a running job trains on in a second.",
            ["job"],
            registry=self.registry,
        )

    def note(self, job: Job, progress: Progress) -> None:
        """Show how far a job is."""
        self._progress.labels(job.id).set(progress.percent / 100)
        if progress.train_loss is not None:
            self._loss.labels(job.id).set(progress.train_loss)
        if progress.tokens_per_second is not None:
            self._speed.labels(job.id).set(progress.tokens_per_second)

    def forget(self, job: Job) -> None:
        """Drop the series of a job that does not run here any more."""
        for gauge in (self._loss, self._progress, self._speed):
            gauge.remove_by_labels({"job": job.id})
