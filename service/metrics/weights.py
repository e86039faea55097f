"""Adapters on their way into the engines and out again."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from service.metrics.registry import LATENCY_S


class WeightsMetrics:
    """Registered, resident, loaded, evicted."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registered = Gauge("graft_adapters", "Registered adapters.", registry=registry)
        self.resident = Gauge(
            "graft_adapters_resident",
            "Versions that the engine holds.",
            ["base_model"],
            registry=registry,
        )
        self.capacity = Gauge(
            "graft_adapters_capacity",
            "Versions that the engine is given to hold at most.",
            ["base_model"],
            registry=registry,
        )
        self.load_seconds = Histogram(
            "graft_adapter_load_duration_seconds",
            "Seconds to load a version into the engine.",
            ["base_model"],
            buckets=LATENCY_S,
            registry=registry,
        )
        self.load_failures = Counter(
            "graft_adapter_load_failures",
            "Versions that the engine refused to load.",
            ["base_model"],
            registry=registry,
        )
        self.probes = Counter(
            "graft_adapter_probes",
            "Versions compared with their probes after loading, by outcome.",
            ["base_model", "outcome"],
            registry=registry,
        )
        self.cold_requests = Counter(
            "graft_adapter_cold_requests",
            "Requests whose version was not in the engine when their turn came.",
            ["base_model"],
            registry=registry,
        )
        self.evictions = Counter(
            "graft_adapter_evictions",
            "Versions unloaded to make room.",
            ["base_model"],
            registry=registry,
        )
        self.activation_seconds = Histogram(
            "graft_adapter_activation_seconds",
            "Seconds from a version's publication until the engine had it, loaded ahead of any request.",
            ["base_model"],
            buckets=LATENCY_S,
            registry=registry,
        )
        self.imports = Counter(
            "graft_adapter_imports",
            "Adapters brought from elsewhere by outcome: accepted, repeated, or why not.",
            ["outcome"],
            registry=registry,
        )

    def expect(self, base_model: str) -> None:
        """Begin at nought."""
        for instrument in (
            self.load_seconds,
            self.load_failures,
            self.cold_requests,
            self.evictions,
            self.activation_seconds,
        ):
            instrument.labels(base_model)
