"""How many tokens a micro-batch may have: what adapts to memory.

Found by probing with real work: the first passes are small, and each that goes well may be followed by one of twice the
size, as long as the memory that a token takes, as measured, says that it will fit. A pass that did not fit halves the
budget; many that did raise it again.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from trainer.warm.meters import GIB, Meter

SMALLEST = 16
#: Of the first pass, where memory can be measured.
FIRST = 256
#: Passes of fewer tokens say little about the memory of one: weights' products and caches dominate.
TELLING = 64
#: Of the free memory, for one pass.
USABLE = 0.8
#: Good passes until a budget that was halved is raised by a quarter.
PATIENCE = 50
#: What is known of a token's memory fades, so that one odd pass is not remembered for ever.
FADE = 0.98


class TokenBudget:
    """Starts small where `meter` can see, and at `most` where it cannot."""

    def __init__(self, most: int, meter: Meter) -> None:
        self._most = most
        self._meter = meter
        self._ceiling = float(most)
        self._good = 0
        #: Bytes that a token of a pass takes; 0 while nobody knows.
        self.bytes_per_token = 0.0
        self.tokens = most if meter.free() is None else min(FIRST, most)

    @contextmanager
    def spent(self, tokens: int) -> Iterator[None]:
        """Measure the pass inside, of that many tokens; it counts only if it does not raise."""
        self._meter.begin()
        yield
        took = self._meter.took()
        # Also in passes that tell nothing: a budget below TELLING could not rise again otherwise.
        self.bytes_per_token *= FADE
        if took and tokens >= TELLING:
            self.bytes_per_token = max(took / tokens, self.bytes_per_token)
        self._good += 1
        if self._good >= PATIENCE and self._ceiling < self._most:
            self._ceiling, self._good = min(self._ceiling * 1.25, self._most), 0
        if 2 * tokens >= self.tokens:
            self._adapt(2 * self.tokens)
        else:
            self._adapt(self.tokens)

    def failed(self, tokens: int) -> None:
        """A pass of that many tokens did not fit."""
        self._meter.release()
        self._ceiling = max(SMALLEST, min(tokens, self.tokens) // 2)
        self._good = 0
        self.tokens = int(self._ceiling)

    def numbers(self) -> str:
        """What is known of memory, for an error message."""
        free = self._meter.free()
        return "" if free is None else f" {free / GIB:.1f} GiB are free."

    def _adapt(self, wanted: int) -> None:
        self.tokens = max(SMALLEST, int(min(wanted, self._ceiling, self._fitting())))

    def _fitting(self) -> float:
        free = self._meter.free()
        if free is None or not self.bytes_per_token:
            return self._most
        return USABLE * free / self.bytes_per_token
