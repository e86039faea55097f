"""How many trainers there should be: enough for the jobs that wait or run, and fewer only after a while."""

import time
from collections.abc import Callable
from math import ceil

from trainer.settings import RaySettings


class Size:
    """Remembers what was last wanted, since a trainer that is let go was expensive to start."""

    def __init__(
        self, settings: RaySettings, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._held = 0
        self._enough_since: float | None = None

    def wanted(self, *, jobs: int, devices: int) -> int:
        """For so many jobs, waiting or running, on a cluster of so many devices."""
        fresh = self._fresh(jobs, devices)
        if fresh >= self._held:
            self._held, self._enough_since = fresh, None
        elif self._enough_since is None:
            self._enough_since = self._clock()
        if self._enough_since is not None and self._is_over(self._enough_since):
            self._held, self._enough_since = fresh, None
        return self._held

    def _is_over(self, since: float) -> bool:
        return self._clock() - since >= self._settings.idle_seconds

    def _fresh(self, jobs: int, devices: int) -> int:
        most = self._settings.max_trainers or devices
        least = most if self._settings.min_trainers is None else self._settings.min_trainers
        return min(most, max(least, ceil(jobs / self._settings.jobs_per_trainer)))
