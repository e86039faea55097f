"""What bounds a turn, and what is right for each kind of device."""

from dataclasses import dataclass, field

import torch

from trainer.warm.memory import meter_for
from trainer.warm.meters import Blind, Meter

#: Of a micro-batch, in tokens. Beyond these, larger ones were not faster.
TOKEN_BUDGET = {"cpu": 1024, "cuda": 32768}
#: Of a job in a pass, so that its products are batched with others'.
BATCHED_TOKENS = {"cpu": 64, "cuda": 1024}
#: Seconds of training that a crash may cost at most, however slow the disk, unless the settings allow for more.
MOST_PAUSE = 300.0


@dataclass(frozen=True, slots=True)
class Limits:
    """What bounds a turn."""

    #: Of a micro-batch, at most; one sample may have more.
    token_budget: int
    #: Between two checkpoints of a job; more where writing those of all jobs takes more than `checkpoint_share`.
    checkpoint_seconds: float
    meter: Meter = field(default_factory=Blind)
    #: See `Routing`.
    batched_tokens: int = 0
    #: At least so many seconds lie between two exports of a job on the way.
    export_seconds: float = 5.0
    #: Of the time, for writing checkpoints. 2 % are too little only for a process that dies twice an hour, where
    #: writing all takes two seconds (Young, 1974: the best pause is the root of 2 x cost x time between deaths).
    checkpoint_share: float = 0.02

    def pause(self, jobs: int, took: float) -> float:
        """Seconds between two checkpoints of each of so many jobs, where writing one takes so many."""
        for_its_share = min(jobs * took / self.checkpoint_share, MOST_PAUSE)
        return max(self.checkpoint_seconds, for_its_share)


def limits_for(
    device: torch.device,
    checkpoint_seconds: float,
    token_budget: int = 0,
    export_seconds: float = 5.0,
) -> Limits:
    """Those of a device. A budget of 0 means its own."""
    return Limits(
        token_budget or TOKEN_BUDGET[device.type],
        checkpoint_seconds,
        meter_for(device),
        BATCHED_TOKENS[device.type],
        export_seconds,
    )
