"""What each adapter is asked and costs, with a bounded number of label values.

Prometheus keeps every value that a label ever had. So only the adapters that are used most have series of their own,
and all others share `other`. One that falls back takes its numbers with it into `other`: sums never go down.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from prometheus_client.core import CounterMetricFamily, Metric, SummaryMetricFamily
from prometheus_client.registry import Collector

#: After so many requests the past counts half.
_HALVING = 10_000
OTHER = "other"


@dataclass(slots=True)
class Seconds:
    """How often, and how long in all: a mean, at two series instead of a histogram's fifteen."""

    count: int = 0
    sum: float = 0.0

    def observe(self, seconds: float) -> None:
        """Take in one more."""
        self.count += 1
        self.sum += seconds

    def add(self, other: "Seconds") -> None:
        """Take over all of another."""
        self.count += other.count
        self.sum += other.sum


@dataclass(frozen=True, slots=True)
class Ending:
    """How a request ended, and what it came to."""

    outcome: str
    seconds: float
    #: Of a stream that has begun.
    first_token_seconds: float | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0


@dataclass(slots=True)
class Tally:
    """What has been asked of one adapter."""

    requests: dict[str, int] = field(default_factory=dict)
    prompt_tokens: int = 0
    completion_tokens: int = 0
    first_token: Seconds = field(default_factory=Seconds)
    duration: Seconds = field(default_factory=Seconds)

    def note(self, ending: Ending) -> None:
        """Count one more."""
        self.requests[ending.outcome] = self.requests.get(ending.outcome, 0) + 1
        self.prompt_tokens += ending.prompt_tokens
        self.completion_tokens += ending.completion_tokens
        self.duration.observe(ending.seconds)
        if ending.first_token_seconds is not None:
            self.first_token.observe(ending.first_token_seconds)

    def add(self, other: "Tally") -> None:
        """Take over all that has been asked of another."""
        for outcome, count in other.requests.items():
            self.requests[outcome] = self.requests.get(outcome, 0) + count
        self.prompt_tokens += other.prompt_tokens
        self.completion_tokens += other.completion_tokens
        self.first_token.add(other.first_token)
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

    def forget(self, adapter: str) -> None:
        """The adapter is no more: its series go, and what it was asked is counted among the others'."""
        if (tally := self._named.pop(adapter, None)) is not None:
            self._other.add(tally)
        self._uses.pop(adapter, None)
        self._candidates.pop(adapter, None)

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
        first_token = SummaryMetricFamily(
            "graft_adapter_time_to_first_token_seconds",
            "Seconds from a request for a stream to its first event, by adapter.",
            labels=["adapter"],
        )
        duration = SummaryMetricFamily(
            "graft_adapter_request_duration_seconds",
            "Seconds from a request to its last byte, by adapter.",
            labels=["adapter"],
        )
        for name, tally in (*self._named.items(), (OTHER, self._other)):
            for outcome, count in tally.requests.items():
                requests.add_metric([name, outcome], count)
            tokens.add_metric([name, "prompt"], tally.prompt_tokens)
            tokens.add_metric([name, "completion"], tally.completion_tokens)
            first_token.add_metric([name], tally.first_token.count, tally.first_token.sum)
            duration.add_metric([name], tally.duration.count, tally.duration.sum)
        yield from (requests, tokens, first_token, duration)

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
