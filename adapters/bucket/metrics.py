"""What the bucket is asked and how it answers, for Prometheus: the same families in service and trainer."""

from typing import Final, get_args

from prometheus_client import CollectorRegistry, Counter, Histogram

from adapters.bucket.watch import Operation, Outcome

#: Seconds, of one try: a small object in a store next door, a piece of 8 MiB in one far away, the time-out.
_BUCKETS_S: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 15, 60)


class StoreMetrics:
    """Looks on and counts. Labels are five operations and two outcomes."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._requests = Counter(
            "graft_object_store_requests",
            "Requests to the bucket by operation and outcome, each further try one more.",
            ["operation", "outcome"],
            registry=registry,
        )
        self._seconds = Histogram(
            "graft_object_store_request_duration_seconds",
            "Seconds of a request to the bucket.",
            ["operation"],
            buckets=_BUCKETS_S,
            registry=registry,
        )
        self._bytes = Counter(
            "graft_object_store_bytes",
            "Bytes sent to the bucket (put) and brought from it (get).",
            ["operation"],
            registry=registry,
        )

    def expect(self) -> None:
        """There is a bucket: begin every count at nought."""
        for operation in get_args(Operation):
            self._seconds.labels(operation)
            for outcome in get_args(Outcome):
                self._requests.labels(operation, outcome)
        for moving in ("put", "get"):
            self._bytes.labels(moving)

    def tried(self, operation: Operation, outcome: Outcome, seconds: float) -> None:
        self._requests.labels(operation, outcome).inc()
        self._seconds.labels(operation).observe(seconds)

    def moved(self, operation: Operation, size: int) -> None:
        self._bytes.labels(operation).inc(size)
