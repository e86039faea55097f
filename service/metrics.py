"""Every instrument of the service, by name. Labels are bounded: routes are templates, adapters the most used ones."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from service.tallies import AdapterTallies

_LATENCY_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class Metrics:
    """The instruments, in a registry of their own so that two apps in one process do not meet."""

    def __init__(self, *, max_adapter_labels: int = 50) -> None:
        self.registry = CollectorRegistry()
        self.by_adapter = AdapterTallies(max_adapter_labels)
        self.registry.register(self.by_adapter)
        self.http_requests = Counter(
            "graft_http_requests",
            "Requests by route template, method and status.",
            ["route", "method", "status"],
            registry=self.registry,
        )
        self.http_seconds = Histogram(
            "graft_http_request_duration_seconds",
            "Seconds until the last byte of the response.",
            ["route", "method"],
            buckets=_LATENCY_S,
            registry=self.registry,
        )
        self.completions = Counter(
            "graft_completions",
            "Completions by base model, who answered (base, adapter, or a shadow that nobody heard), and outcome.",
            ["base_model", "kind", "outcome"],
            registry=self.registry,
        )
        self.shadows_dropped = Counter(
            "graft_shadow_requests_dropped",
            "Requests that were not sent to a shadow: too many under way, or others waiting.",
            ["base_model"],
            registry=self.registry,
        )
        self.repetition_stops = Counter(
            "graft_repetition_stops",
            "Choices that the repetition guard has stopped.",
            ["base_model"],
            registry=self.registry,
        )
        self.first_byte_seconds = Histogram(
            "graft_time_to_first_byte_seconds",
            "Seconds from a completion request to the engine's first byte.",
            ["base_model", "kind"],
            buckets=_LATENCY_S,
            registry=self.registry,
        )
        self.waiting = Gauge(
            "graft_requests_waiting",
            "Completion requests waiting for a place.",
            ["base_model"],
            registry=self.registry,
        )
        self.queue_wait_seconds = Histogram(
            "graft_queue_wait_seconds",
            "Seconds that a completion request waited for a place.",
            ["base_model"],
            buckets=(0.0001, *_LATENCY_S),
            registry=self.registry,
        )
        self.retries = Counter(
            "graft_completion_retries",
            "Requests sent once more because the engine died before its first byte.",
            ["base_model"],
            registry=self.registry,
        )
        self.engine_up = Gauge(
            "graft_engine_up",
            "Whether the engine answers.",
            ["base_model"],
            registry=self.registry,
        )
        self.engine_restarts = Counter(
            "graft_engine_restarts",
            "How often the engine went away.",
            ["base_model"],
            registry=self.registry,
        )
        self.adapters = Gauge("graft_adapters", "Registered adapters.", registry=self.registry)
        self.adapter_load_seconds = Histogram(
            "graft_adapter_load_duration_seconds",
            "Seconds to load a version into the engine.",
            ["base_model"],
            buckets=_LATENCY_S,
            registry=self.registry,
        )
        self.adapter_load_failures = Counter(
            "graft_adapter_load_failures",
            "Versions that the engine refused to load.",
            ["base_model"],
            registry=self.registry,
        )
        self.adapter_probes = Counter(
            "graft_adapter_probes",
            "Versions compared with their probes after loading, by outcome.",
            ["base_model", "outcome"],
            registry=self.registry,
        )
        self.adapter_evictions = Counter(
            "graft_adapter_evictions",
            "Versions unloaded to make room.",
            registry=self.registry,
        )
        self.adapter_imports = Counter(
            "graft_adapter_imports",
            "Adapters brought from elsewhere by outcome: accepted, repeated, or why not.",
            ["outcome"],
            registry=self.registry,
        )
        self.jobs_submitted = Counter(
            "graft_jobs_submitted", "Fine-tuning jobs accepted.", registry=self.registry
        )
        self.jobs = Gauge(
            "graft_jobs", "Fine-tuning jobs by status.", ["status"], registry=self.registry
        )
        self.queue_depth = Gauge(
            "graft_queue_jobs",
            "Fine-tuning jobs that wait, by base model.",
            ["base_model"],
            registry=self.registry,
        )
        self.queue_age_seconds = Gauge(
            "graft_queue_oldest_seconds",
            "How long ago the oldest job that waits was submitted, by base model.",
            ["base_model"],
            registry=self.registry,
        )
        self.webhook_deliveries = Counter(
            "graft_webhook_deliveries",
            "Attempts to call webhook endpoints by outcome.",
            ["outcome"],
            registry=self.registry,
        )
