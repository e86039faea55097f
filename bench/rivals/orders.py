"""What a rival's process is told and what it answers, one JSON object a line. Nothing but the standard library."""

import json
from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """Train one job: the same batch of rows at every step, from the given adapter."""

    model: str
    adapter: str
    #: An empty folder for whatever the rival writes.
    scratch: str
    rows: list[list[int]]
    #: As long as the rows, -100 where nothing is learnt.
    labels: list[list[int]]
    steps: int
    #: Steps before the clock starts; not part of `steps`.
    untimed_steps: int
    learning_rate: float
    weight_decay: float
    max_grad_norm: float
    #: Not as it comes, but as somebody who knows it well would set it for this machine.
    tuned: bool

    @property
    def total_steps(self) -> int:
        """All steps, timed or not."""
        return self.steps + self.untimed_steps


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What it took and what was computed; of all steps, the untimed ones included."""

    seconds: float
    losses: list[float]
    grad_norms: list[float]


def encode(message: Order | Reply) -> bytes:
    """One line."""
    return json.dumps(asdict(message)).encode() + b"\n"


def decode_order(line: bytes) -> Order:
    """The inverse of `encode`."""
    return Order(**json.loads(line))


def decode_reply(line: bytes) -> Reply:
    """The inverse of `encode`."""
    return Reply(**json.loads(line))
