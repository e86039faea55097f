"""Keeps as many trainers on a cluster as the queue wants. That each of them lives is the cluster's own business.

It remembers nothing that matters: who comes after it finds the trainers by their names, and goes on.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from adapters.errors import Unavailable
from trainer.ray.protocol import PREFIX, Cluster, State
from trainer.ray.size import Size

log = logging.getLogger(__name__)

_LOOK_S = 0.2
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 60.0


@dataclass(slots=True)
class _Broken:
    """When one that could not be started is tried again, and how long that was waited for."""

    until: float
    pause: float


@dataclass(slots=True)
class Told:
    """What there was at the last look, for whoever watches."""

    wanted: int = 0
    states: dict[str, State] = field(default_factory=dict)


class Driver:
    """Places trainers, and lets them go."""

    def __init__(
        self,
        cluster: Cluster,
        size: Size,
        *,
        jobs: Callable[[], int],
        drain_seconds: float,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._cluster = cluster
        self._size = size
        self._count_jobs = jobs
        self._drain_seconds = drain_seconds
        self._clock, self._sleep = clock, sleep
        self._jobs = 0
        #: By name: when one that was asked to go is ended.
        self._going: dict[str, float] = {}
        self._broken: dict[str, _Broken] = {}
        self.told = Told()

    def turn(self) -> Told:
        """Look once, and do what is to be done."""
        states = dict(self._cluster.trainers())
        wanted = self._size.wanted(jobs=self._count(), devices=self._cluster.devices())
        names = [f"{PREFIX}{number}" for number in range(wanted)]
        for name, state in states.items():
            self._look_after(name, state, wanted=name in names)
        for name in names:
            if name not in states and self._may_start(name):
                log.info("placing %s", name)
                self._cluster.place(name)
        self.told = Told(wanted, states)
        return self.told

    def drain_all(self) -> None:
        """Let every trainer go: they write checkpoints and give back their jobs, and what takes too long is ended."""
        left = set(self._cluster.trainers())
        for name in left:
            self._let_go(name)
        # One that appears meanwhile is somebody else's: another driver on the same cluster.
        while left:
            states = self._cluster.trainers()
            for name in left & states.keys():
                self._end_if_over(name, states[name])
            left &= self._going.keys() & states.keys()
            self._sleep(_LOOK_S)

    def _count(self) -> int:
        try:
            self._jobs = self._count_jobs()
        except Unavailable as error:
            log.warning(
                "the ledger does not answer, so there are as many jobs as before: %s", error
            )
        return self._jobs

    def _look_after(self, name: str, state: State, *, wanted: bool) -> None:
        if state is State.BROKEN:
            self._cluster.remove(name)
            self._going.pop(name, None)
            self._pause(name)
            return
        if state is State.WORKING:
            self._broken.pop(name, None)
        # One that has been asked to go is wanted again only after it has gone: it takes no more jobs. And one that
        # went by itself has to make room for its successor.
        if name in self._going or state is State.DRAINED or not wanted:
            self._let_go(name)
            self._end_if_over(name, state)

    def _let_go(self, name: str) -> None:
        if name not in self._going:
            log.info("letting %s go", name)
            self._cluster.drain(name)
            self._going[name] = self._clock() + self._drain_seconds

    def _end_if_over(self, name: str, state: State) -> None:
        over = state in {State.DRAINED, State.BROKEN}
        late = self._clock() >= self._going[name]
        if late and not over:
            log.warning("%s did not end in %.0f s", name, self._drain_seconds)
        if late or over:
            self._cluster.remove(name)
            del self._going[name]

    def _pause(self, name: str) -> None:
        before = self._broken.get(name)
        pause = min(before.pause * 2, _LONGEST_PAUSE_S) if before else _FIRST_PAUSE_S
        self._broken[name] = _Broken(self._clock() + pause, pause)

    def _may_start(self, name: str) -> bool:
        broken = self._broken.get(name)
        return broken is None or self._clock() >= broken.until
