"""What is told of trainers that somebody else keeps alive."""

from collections import Counter
from collections.abc import Sequence

from prometheus_client import Gauge

from trainer.metrics.instruments import Registry

_STATES = ("waiting", "working", "drained", "broken")


class Placed:
    """How many there should be, and how many there are."""

    def __init__(self) -> None:
        self.registry = Registry()
        self._wanted = Gauge(
            "graft_placed_trainers_wanted",
            "Trainers that the queue wants on the cluster.",
            registry=self.registry,
        )
        self._states = Gauge(
            "graft_placed_trainers",
            "Trainers on the cluster: waiting, working, drained, broken.",
            ["state"],
            registry=self.registry,
        )
        self.tell(0, [])

    def tell(self, wanted: int, states: Sequence[str]) -> None:
        """As it is now."""
        self._wanted.set(wanted)
        counted = Counter(states)
        for state in _STATES:
            self._states.labels(state).set(counted[state])
