"""Stand-ins for the trainers that Ray keeps alive: they do nothing, or cannot be started."""

import threading

from trainer.ray.protocol import Order, State


class Idler:
    """Says that it works until it is asked to go. A hopeless one cannot be started; a quitter lets itself go."""

    def __init__(self, order: Order, leave) -> None:
        if "hopeless" in order.name:
            raise ValueError(order.name)
        self._state = State.WORKING
        if "quitter" in order.name:
            threading.Timer(0.5, leave).start()

    def report(self) -> str:
        return self._state

    def drain(self) -> None:
        self._state = State.DRAINED
