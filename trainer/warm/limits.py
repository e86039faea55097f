"""What bounds a turn, and what is right for each kind of device."""

from dataclasses import dataclass, field

import torch

from trainer.warm.memory import meter_for
from trainer.warm.meters import Blind, Meter

#: Of a micro-batch, in tokens. Beyond these, larger ones were not faster.
TOKEN_BUDGET = {"cpu": 1024, "cuda": 32768}
#: Of a job in a pass, so that its products are batched with others'.
BATCHED_TOKENS = {"cpu": 64, "cuda": 1024}


@dataclass(frozen=True, slots=True)
class Limits:
    """What bounds a turn."""

    #: Of a micro-batch, at most; one sample may have more.
    token_budget: int
    checkpoint_seconds: float
    meter: Meter = field(default_factory=Blind)
    #: See `Routing`.
    batched_tokens: int = 0
    #: At least so many seconds lie between two exports of a job on the way.
    export_seconds: float = 5.0


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
