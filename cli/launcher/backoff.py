"""How long to wait before starting again what died."""

from dataclasses import dataclass, field


@dataclass(slots=True, kw_only=True)
class Backoff:
    """Doubles with each quick death; a process that lived long enough is forgiven all earlier ones."""

    first: float = 0.5
    most: float = 30.0
    healthy_after: float = 60.0
    #: What the next quick death costs; set by `after`.
    _next: float = field(init=False, default=0.0)

    def after(self, lived: float) -> float:
        """Seconds to wait after a process that lived this many seconds."""
        if lived >= self.healthy_after or not self._next:
            self._next = self.first
        delay = self._next
        self._next = min(delay * 2, self.most)
        return delay
