"""What base models and adapters are asked, and how long they take."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from service.metrics.registry import LATENCY_S
from service.tallies import Ending

#: How a completion may end.
OUTCOMES = ("ok", "client_error", "engine_error", "overloaded", "cancelled")


class AnswerMetrics:
    """By base model, and whether an adapter answered; by adapter there is `service/tallies.py`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.completions = Counter(
            "graft_completions",
            "Completions by base model, who answered (base, adapter, or a shadow that nobody heard), and outcome.",
            ["base_model", "kind", "outcome"],
            registry=registry,
        )
        self.shadows_dropped = Counter(
            "graft_shadow_requests_dropped",
            "Requests that were not sent to a shadow: too many under way, or others waiting.",
            ["base_model"],
            registry=registry,
        )
        self.repetition_stops = Counter(
            "graft_repetition_stops",
            "Choices that the repetition guard has stopped.",
            ["base_model"],
            registry=registry,
        )
        self.seconds = Histogram(
            "graft_completion_duration_seconds",
            "Seconds from a completion request to its last byte.",
            ["base_model", "kind"],
            buckets=LATENCY_S,
            registry=registry,
        )
        self.first_token_seconds = Histogram(
            "graft_time_to_first_token_seconds",
            "Seconds from a request for a stream to its first event.",
            ["base_model", "kind"],
            buckets=LATENCY_S,
            registry=registry,
        )
        self.tokens = Counter(
            "graft_tokens",
            "Tokens by base model: of prompts, and generated.",
            ["base_model", "kind"],
            registry=registry,
        )
        self.waiting = Gauge(
            "graft_requests_waiting",
            "Completion requests waiting for a place.",
            ["base_model"],
            registry=registry,
        )
        self.wait_seconds = Histogram(
            "graft_queue_wait_seconds",
            "Seconds that a completion request waited for a place.",
            ["base_model"],
            buckets=(0.0001, *LATENCY_S),
            registry=registry,
        )
        self.retries = Counter(
            "graft_completion_retries",
            "Requests sent once more because the engine died before its first byte.",
            ["base_model"],
            registry=registry,
        )

    def note(self, base_model: str, kind: str, ending: Ending) -> None:
        """Count one more."""
        self.completions.labels(base_model, kind, ending.outcome).inc()
        self.seconds.labels(base_model, kind).observe(ending.seconds)
        if ending.first_token_seconds is not None:
            self.first_token_seconds.labels(base_model, kind).observe(ending.first_token_seconds)
        self.tokens.labels(base_model, "prompt").inc(ending.prompt_tokens)
        self.tokens.labels(base_model, "completion").inc(ending.completion_tokens)

    def expect(self, base_model: str) -> None:
        """Begin at nought."""
        for counter in (self.retries, self.shadows_dropped, self.repetition_stops):
            counter.labels(base_model)
        for kind in ("base", "adapter"):
            self.seconds.labels(base_model, kind)
            self.first_token_seconds.labels(base_model, kind)
            for outcome in OUTCOMES:
                self.completions.labels(base_model, kind, outcome)
        for kind in ("prompt", "completion"):
            self.tokens.labels(base_model, kind)
