"""Every instrument of the service, by what it watches. Labels are bounded: routes are templates, adapters few.

How many series that makes, and what a scrape of them costs: docs/adr/0030-eyes.md.
"""

from adapters.bucket.metrics import StoreMetrics
from service.metrics.answers import AnswerMetrics
from service.metrics.engines import EngineMetrics
from service.metrics.house import HouseMetrics
from service.metrics.http import HttpMetrics
from service.metrics.jobs import JobMetrics
from service.metrics.registry import Registry
from service.metrics.weights import WeightsMetrics
from service.tallies import AdapterTallies


class Metrics:
    """The instruments, in a registry of their own so that two apps in one process do not meet."""

    def __init__(self, *, max_adapter_labels: int = 50) -> None:
        self.registry = Registry()
        self.http = HttpMetrics(self.registry)
        self.answers = AnswerMetrics(self.registry)
        self.by_adapter = AdapterTallies(max_adapter_labels)
        self.registry.register(self.by_adapter)
        self.engines = EngineMetrics(self.registry)
        self.weights = WeightsMetrics(self.registry)
        self.jobs = JobMetrics(self.registry)
        self.house = HouseMetrics(self.registry)
        self.store = StoreMetrics(self.registry)

    def expect(self, base_model: str) -> None:
        """Begin every count of a base model at nought: what appears as one has never grown, as Prometheus sees it."""
        self.answers.expect(base_model)
        self.engines.restarts.labels(base_model)
        self.weights.expect(base_model)
