"""A cluster of trainers that do nothing: places, and who has one. It passes the suite that Ray passes."""

from collections.abc import Mapping

from trainer.ray.protocol import State


class FakeCluster:
    """So many places. Who finds none waits for one, in the order of asking."""

    def __init__(self, places: int = 2) -> None:
        self.places = places
        self._states: dict[str, State] = {}
        #: Names that cannot be started.
        self.hopeless: set[str] = set()
        #: Names of trainers that do not answer, and do not end when they are asked to.
        self.deaf: set[str] = set()
        self.placed: list[str] = []

    def devices(self) -> int:
        return self.places

    def trainers(self) -> Mapping[str, State]:
        for name, state in self._states.items():
            if state is State.WAITING and name not in self.deaf and self._seated() < self.places:
                self._states[name] = State.BROKEN if name in self.hopeless else State.WORKING
        return dict(self._states)

    def place(self, name: str) -> None:
        if name not in self._states:
            self.placed.append(name)
            self._states[name] = State.WAITING

    def drain(self, name: str) -> None:
        if self._states.get(name) is State.WORKING and name not in self.deaf:
            self._states[name] = State.DRAINED

    def remove(self, name: str) -> None:
        self._states.pop(name, None)

    def lose_place(self, name: str) -> None:
        """Its node dies: the trainer is started again, where there is a place."""
        self.places -= 1
        self._states[name] = State.WAITING

    def _seated(self) -> int:
        return sum(state in {State.WORKING, State.DRAINED} for state in self._states.values())
