"""Jobs as the ledger has them, and what is told of them to the outside. Every replica says the same of the ledger."""

from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge

from adapters.demand import QueueLoad


class JobMetrics:
    """Submissions of this process, and the ledger's counts as of the latest scrape."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.submitted = Counter(
            "graft_jobs_submitted", "Fine-tuning jobs accepted.", registry=registry
        )
        self.webhook_deliveries = Counter(
            "graft_webhook_deliveries",
            "Attempts to call webhook endpoints by outcome.",
            ["outcome"],
            registry=registry,
        )
        self._by_status = Gauge(
            "graft_jobs", "Fine-tuning jobs by status.", ["status"], registry=registry
        )
        self._queued = Gauge(
            "graft_queue_jobs",
            "Fine-tuning jobs that wait, by base model.",
            ["base_model"],
            registry=registry,
        )
        self._running = Gauge(
            "graft_running_jobs",
            "Fine-tuning jobs that a worker holds, by base model.",
            ["base_model"],
            registry=registry,
        )
        self._slots = Gauge(
            "graft_training_slots",
            "Jobs that workers train at a time, by base model; 0 where no worker is there.",
            ["base_model"],
            registry=registry,
        )
        self._oldest_seconds = Gauge(
            "graft_queue_oldest_seconds",
            "How long ago the oldest job that waits was submitted, by base model.",
            ["base_model"],
            registry=registry,
        )

    def show(self, counts: Mapping[str, int], loads: Mapping[str, QueueLoad], now: float) -> None:
        """Take over what the ledger says; a status that no job has any more goes."""
        self._by_status.clear()
        for status, number in counts.items():
            self._by_status.labels(status).set(number)
        for base_model, load in loads.items():
            waited = max(0.0, now - load.oldest) if load.oldest is not None else 0.0
            self._queued.labels(base_model).set(load.queued)
            self._running.labels(base_model).set(load.running)
            self._slots.labels(base_model).set(load.slots or 0)
            self._oldest_seconds.labels(base_model).set(waited)

    def hide(self) -> None:
        """Say nothing where the ledger does not: old figures would look like news."""
        for gauge in (
            self._by_status,
            self._queued,
            self._running,
            self._slots,
            self._oldest_seconds,
        ):
            gauge.clear()
