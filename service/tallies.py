"""What each adapter is asked and costs, with a bounded number of label values.

Prometheus keeps every value that a label ever had. So only the adapters that are used most have series of their own,
and all others share `other`. One that falls back takes its numbers with it into `other`: sums never go down.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

_BUCKETS_S = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
#: After so many requests the past counts half.
_HALVING = 10_000
OTHER = "other"


class _Seconds:
    """A histogram."""

    def __init__(self) -> None:
        self.counts = [0] * (len(_BUCKETS_S) + 1)
        self.sum = 0.0

    def observe(self, seconds: float) -> None:
        self.sum += seconds
        for index, bound in enumerate(_BUCKETS_S):
            if seconds <= bound:
                self.counts[index] += 1
                return
        self.counts[-1] += 1

    def add(self, other: "_Seconds") -> None:
        self.sum += other.sum
        self.counts = [
            mine + theirs for mine, theirs in zip(self.counts, other.counts, strict=True)
        ]

    def buckets(self) -> list[tuple[str, float]]:
        total, told = 0, []
        for bound, count in zip([*_BUCKETS_S, "+Inf"], self.counts, strict=True):
            total += count
            told.append((str(bound), float(total)))
        return told


@dataclass(slots=True)
class Tally:
    """What has been asked of one adapter."""

    requests: dict[str, int] = field(default_factory=dict)
    prompt_tokens: int = 0
    completion_tokens: int = 0
    first_byte: _Seconds = field(default_factory=_Seconds)
    duration: _Seconds = field(default_factory=_Seconds)

    def add(self, other: "Tally") -> None:
        """Take over all that has been asked of another."""
        for outcome, count in other.requests.items():
            self.requests[outcome] = self.requests.get(outcome, 0) + count
        self.prompt_tokens += other.prompt_tokens
        self.completion_tokens += other.completion_tokens
        self.first_byte.add(other.first_byte)
        self.duration.add(other.duration)


class AdapterTallies(Collector):
    """The tallies of the adapters that are used most, and of all others together."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._named: dict[str, Tally] = {}
        self._other = Tally()
        #: How often of late: those with a tally, and as many that might get one.
        self._uses: dict[str, float] = {}
        self._candidates: dict[str, float] = {}
        self._until_halving = _HALVING

    def of(self, adapter: str) -> Tally:
        """Where a request for this adapter is counted; counts as one use."""
        self._until_halving -= 1
        if not self._until_halving:
            self._halve()
        if adapter in self._named:
            self._uses[adapter] += 1
        elif len(self._named) < self._most:
            self._name(adapter, 1)
        else:
            self._try(adapter)
        return self._named.get(adapter, self._other)

    def collect(self) -> Iterator[Metric]:
        """As prometheus-client asks for it."""
        requests = CounterMetricFamily(
            "graft_adapter_requests",
            "Requests by adapter and outcome.",
            labels=["adapter", "outcome"],
        )
        tokens = CounterMetricFamily(
            "graft_adapter_tokens",
            "Tokens by adapter: of prompts, and generated.",
            labels=["adapter", "kind"],
        )
        first_byte = HistogramMetricFamily(
            "graft_adapter_time_to_first_byte_seconds",
            "Seconds from a request to the engine's first byte, by adapter.",
            labels=["adapter"],
        )
        duration = HistogramMetricFamily(
            "graft_adapter_request_duration_seconds",
            "Seconds from a request to its last byte, by adapter.",
            labels=["adapter"],
        )
        for name, tally in (*self._named.items(), (OTHER, self._other)):
            for outcome, count in tally.requests.items():
                requests.add_metric([name, outcome], count)
            tokens.add_metric([name, "prompt"], tally.prompt_tokens)
            tokens.add_metric([name, "completion"], tally.completion_tokens)
            first_byte.add_metric([name], tally.first_byte.buckets(), tally.first_byte.sum)
            duration.add_metric([name], tally.duration.buckets(), tally.duration.sum)
        yield from (requests, tokens, first_byte, duration)

    def _name(self, adapter: str, uses: float) -> None:
        self._named[adapter] = Tally()
        self._uses[adapter] = uses

    def _try(self, adapter: str) -> None:
        if not self._most:
            return
        uses = self._candidates.pop(adapter, 0.0) + 1
        least = min(self._uses, key=self._uses.__getitem__)
        if uses > self._uses[least] + 1:
            self._other.add(self._named.pop(least))
            self._candidates[least] = self._uses.pop(least)
            self._name(adapter, uses)
        elif len(self._candidates) < self._most:
            self._candidates[adapter] = uses
        else:
            rarest = min(self._candidates, key=self._candidates.__getitem__)
            if self._candidates[rarest] <= uses:
                del self._candidates[rarest]
                self._candidates[adapter] = uses

    def _halve(self) -> None:
        self._until_halving = _HALVING
        self._uses = {name: uses / 2 for name, uses in self._uses.items()}
        self._candidates = {name: uses / 2 for name, uses in self._candidates.items()}
