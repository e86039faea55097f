"""Where instruments are kept until somebody scrapes them, and the bounds of their buckets."""

from collections.abc import Iterator
from typing import Final, Protocol

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric

from service.metrics.text import as_text

#: Seconds, of requests.
LATENCY_S: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
#: The same more coarsely, where there is a histogram for each of a hundred routes.
COARSE_S: Final = (0.01, 0.05, 0.25, 1, 5, 30, 120)


class Writer(Protocol):
    """Has so many series that it writes them itself."""

    def collect(self) -> Iterator[Metric]:
        """As prometheus-client asks for it."""

    def lines(self) -> list[str]:
        """The same as text, without line ends."""


class Registry(CollectorRegistry):
    """A registry that does not say when each counter was made: half as many series again that nobody asks for."""

    def __init__(self) -> None:
        super().__init__()
        self._writers: list[Writer] = []

    def let_write(self, writer: Writer) -> None:
        """Have its series told, too."""
        self._writers.append(writer)

    def collect(self) -> Iterator[Metric]:
        """Every family with its samples."""
        yield from self._counted()
        for writer in self._writers:
            yield from writer.collect()

    def as_text(self) -> bytes:
        """All of it, in Prometheus's text format."""
        return as_text(self._counted(), [line for one in self._writers for line in one.lines()])

    def _counted(self) -> Iterator[Metric]:
        for family in super().collect():
            family.samples = [one for one in family.samples if not one.name.endswith("_created")]
            yield family
