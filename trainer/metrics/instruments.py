"""The instruments of the trainer, by name. Labels are base models, devices, and jobs while they run."""

import platform
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import Metric

from adapters.bucket.metrics import StoreMetrics

#: Seconds, of jobs: from one to a day.
JOB_S = (1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200, 21600, 86400)
_CHECKPOINT_S = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Registry(CollectorRegistry):
    """A registry that does not say when each counter was made."""

    def collect(self) -> Iterator[Metric]:
        """Every family with its samples."""
        for family in super().collect():
            family.samples = [one for one in family.samples if not one.name.endswith("_created")]
            yield family


class Instruments:
    """All of them, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = Registry()
        self._make_of_workers()
        self._make_of_jobs()
        self._make_of_ends()
        self._make_of_running()
        self._make_of_house()
        self.store = StoreMetrics(self.registry)

    def expect(self, base_model: str) -> None:
        """Begin every count of a base model at nought: what appears as one has never grown, as Prometheus sees it."""
        for plain in (
            *(self.deaths, self.memory_retries, self.ledger_failures, self.fenced, self.losses),
            *(self.nonfinite, self.steps, self.tokens),
            *(self.wait_seconds, self.first_step_seconds, self.checkpoint_seconds),
        ):
            plain.labels(base_model)
        for reason in ("first", "rescued", "resumed"):
            self.attempts.labels(base_model, reason)
        for outcome in ("succeeded", "failed_user", "failed_system"):
            self.finished.labels(base_model, outcome)
            self.job_seconds.labels(base_model, outcome)
        for result in ("passed", "held_back", "not_compared", "off"):
            self.gates.labels(base_model, result)

    def counter(self, name: str, what: str, *labels: str) -> Counter:
        """By base model and whatever else."""
        return Counter(name, what, ["base_model", *labels], registry=self.registry)

    def gauge(self, name: str, what: str, *labels: str) -> Gauge:
        """With these labels."""
        return Gauge(name, what, labels, registry=self.registry)

    def seconds(self, name: str, what: str, *labels: str, buckets: tuple[float, ...]) -> Histogram:
        """By base model and whatever else."""
        return Histogram(
            name, what, ["base_model", *labels], buckets=buckets, registry=self.registry
        )

    def _make_of_workers(self) -> None:
        self.heartbeat = self.gauge(
            "graft_worker_heartbeat_timestamp_seconds",
            "When the worker last renewed its leases, in Unix seconds.",
            *("base_model", "device"),
        )
        self.held = self.gauge(
            "graft_worker_jobs", "Jobs that the worker holds.", "base_model", "device"
        )
        self.deaths = self.counter(
            "graft_training_process_deaths", "How often a training process died."
        )
        self.memory_retries = self.counter(
            "graft_training_out_of_memory",
            "Passes that did not fit into memory and were tried again in smaller ones.",
        )
        self.ledger_failures = self.counter(
            "graft_worker_ledger_failures", "How often the ledger did not answer a worker."
        )

    def _make_of_jobs(self) -> None:
        self.attempts = self.counter(
            "graft_job_attempts",
            "Jobs taken up: first, rescued after a loss, or resumed.",
            "reason",
        )
        self.wait_seconds = self.seconds(
            "graft_job_queue_wait_seconds",
            "Seconds from a job's submission until it was taken up for the first time.",
            buckets=JOB_S,
        )
        self.first_step_seconds = self.seconds(
            "graft_job_first_step_seconds",
            "Seconds from a job's submission until its first optimizer step.",
            buckets=JOB_S,
        )
        self.fenced = self.counter(
            "graft_job_fenced_writes",
            "Writes refused because the job was cancelled, paused, or another attempt's by then.",
        )
        self.losses = self.counter(
            "graft_job_losses", "Jobs that went back to the queue because they were lost."
        )

    def _make_of_ends(self) -> None:
        self.finished = self.counter(
            "graft_jobs_finished",
            "Jobs that ended here: succeeded, failed_user, failed_system.",
            "outcome",
        )
        self.job_seconds = self.seconds(
            "graft_job_duration_seconds",
            "Seconds that a job was in training, all attempts together.",
            "outcome",
            buckets=JOB_S,
        )
        self.gates = self.counter(
            "graft_gate_results",
            "What the gate said of new versions: passed, held_back, not_compared, off.",
            "result",
        )
        self.nonfinite = self.counter(
            "graft_training_nonfinite", "Jobs that failed because numbers were not finite."
        )

    def _make_of_running(self) -> None:
        self.steps = self.counter("graft_training_steps", "Optimizer steps.")
        self.tokens = self.counter("graft_training_tokens", "Tokens that jobs were trained on.")
        self.checkpoint_seconds = self.seconds(
            "graft_checkpoint_write_seconds",
            "Seconds that it took to write a checkpoint.",
            buckets=_CHECKPOINT_S,
        )
        self.by_job = {
            name: self.gauge(f"graft_training_{name}", what, "job_id")
            for name, what in (
                ("loss", "Training loss of a running job."),
                ("valid_loss", "Held-out loss of a running job."),
                ("grad_norm", "Norm of the gradient before clipping, of a running job."),
                ("learning_rate", "Learning rate of a running job."),
                ("progress_ratio", "How far a running job is, 0 to 1."),
                ("tokens_per_second", "Tokens that a running job trains on in a second."),
                ("checkpoint_timestamp_seconds", "When a running job was last made durable."),
            )
        }

    def _make_of_house(self) -> None:
        self.stored = self.gauge(
            "graft_storage_bytes", "Bytes in the home folder, by what they are.", "kind"
        )
        build = self.gauge(
            "graft_build_info",
            "What runs here; always 1.",
            *("component", "version", "python", "torch"),
        )
        own, torch = _version("graft"), _version("torch")
        build.labels("trainer", own, platform.python_version(), torch).set(1)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"
