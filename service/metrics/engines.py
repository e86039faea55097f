"""How the engines are."""

from prometheus_client import CollectorRegistry, Counter, Gauge


class EngineMetrics:
    """By base model. What vLLM says of itself is at `/metrics/engines`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.up = Gauge(
            "graft_engine_up", "Whether the engine answers.", ["base_model"], registry=registry
        )
        self.restarts = Counter(
            "graft_engine_restarts",
            "How often the engine went away.",
            ["base_model"],
            registry=registry,
        )
        self.last_answer = Gauge(
            "graft_engine_last_answer_timestamp_seconds",
            "When the engine last answered for its health, in Unix seconds.",
            ["base_model"],
            registry=registry,
        )
        self.last_token = Gauge(
            "graft_engine_last_token_timestamp_seconds",
            "When the engine was last seen to generate, for somebody or as a canary, in Unix seconds.",
            ["base_model"],
            registry=registry,
        )
