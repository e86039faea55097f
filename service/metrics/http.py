"""What is asked over HTTP, whatever it is about.

A hundred routes, each with a histogram: two of three series of a scrape. prometheus-client makes an object of each
every time, a sorted dictionary in it; here only the values are new, what stands before them is kept.
"""

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Final

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.utils import floatToGoString

from service.metrics.registry import COARSE_S, Registry
from service.metrics.text import heading, series

_REQUESTS: Final = "graft_http_requests"
_SECONDS: Final = "graft_http_request_duration_seconds"
_ABOUT_REQUESTS: Final = "Requests by route template, method and status."
_ABOUT_SECONDS: Final = "Seconds until the last byte of the response."
_BOUNDS: Final = tuple(map(floatToGoString, (*COARSE_S, float("inf"))))


@dataclass(slots=True)
class Asked:
    """How often one route was asked by one method, and how long it took."""

    labels: tuple[str, str]
    #: Of each status.
    statuses: dict[int, int] = field(default_factory=dict)
    #: How many took no longer than a bound, and longer than the one before it.
    buckets: list[int] = field(default_factory=lambda: [0] * len(_BOUNDS))
    sum: float = 0.0
    #: How lines begin: one for each status, and those of the histogram.
    _counts: dict[int, str] = field(default_factory=dict)
    _beginnings: tuple[str, ...] = ()

    def note(self, status: int, seconds: float) -> None:
        """Count one more."""
        self.statuses[status] = self.statuses.get(status, 0) + 1
        self.buckets[bisect_left(COARSE_S, seconds)] += 1
        self.sum += seconds

    @property
    def within(self) -> list[int]:
        """How many took no longer than each bound."""
        return list(accumulate(self.buckets))

    def counts(self) -> list[str]:
        """A line for each status."""
        for status in self.statuses.keys() - self._counts.keys():
            self._counts[status] = series(f"{_REQUESTS}_total", self._named(status=str(status)))
        return [f"{self._counts[status]}{number}.0" for status, number in self.statuses.items()]

    def histogram(self) -> list[str]:
        """Its lines."""
        if not self._beginnings:
            bounds = [series(f"{_SECONDS}_bucket", self._named(le=bound)) for bound in _BOUNDS]
            ends = [series(f"{_SECONDS}_{what}", self._named()) for what in ("count", "sum")]
            self._beginnings = (*bounds, *ends)
        within = self.within
        values = [f"{number}.0" for number in (*within, within[-1])]
        return list(map(str.__add__, self._beginnings, [*values, repr(self.sum)]))

    def _named(self, **more: str) -> dict[str, str]:
        route, method = self.labels
        return {"route": route, "method": method, **more}


class HttpMetrics:
    """By route template, never by path."""

    def __init__(self, registry: Registry) -> None:
        self._asked: dict[tuple[str, str], Asked] = {}
        registry.let_write(self)

    def note(self, route: str, method: str, status: int, seconds: float) -> None:
        """Count one more request, and how long it took."""
        labels = (route, method)
        asked = self._asked.get(labels)
        if asked is None:
            asked = self._asked[labels] = Asked(labels)
        asked.note(status, seconds)

    def lines(self) -> list[str]:
        """In Prometheus's text format."""
        lines = heading(f"{_REQUESTS}_total", "counter", _ABOUT_REQUESTS)
        for asked in self._asked.values():
            lines += asked.counts()
        lines += heading(_SECONDS, "histogram", _ABOUT_SECONDS)
        for asked in self._asked.values():
            lines += asked.histogram()
        return lines

    def collect(self) -> Iterator[Metric]:
        """As prometheus-client asks for it."""
        requests = CounterMetricFamily(
            _REQUESTS, _ABOUT_REQUESTS, labels=["route", "method", "status"]
        )
        seconds = HistogramMetricFamily(_SECONDS, _ABOUT_SECONDS, labels=["route", "method"])
        for asked in self._asked.values():
            for status, number in asked.statuses.items():
                requests.add_metric([*asked.labels, str(status)], number)
            within = list(zip(_BOUNDS, asked.within, strict=True))
            seconds.add_metric(list(asked.labels), within, asked.sum)
        yield from (requests, seconds)
