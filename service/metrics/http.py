"""What is asked over HTTP, whatever it is about."""

from prometheus_client import CollectorRegistry, Counter, Histogram

from service.metrics.registry import COARSE_S


class HttpMetrics:
    """By route template, never by path."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.requests = Counter(
            "graft_http_requests",
            "Requests by route template, method and status.",
            ["route", "method", "status"],
            registry=registry,
        )
        self.seconds = Histogram(
            "graft_http_request_duration_seconds",
            "Seconds until the last byte of the response.",
            ["route", "method"],
            buckets=COARSE_S,
            registry=registry,
        )
