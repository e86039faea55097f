"""That two trainings did the same work: otherwise the faster one may only have done less."""

import math
from dataclasses import dataclass

#: Relative. Measured over seven steps in float32: 5e-6 and 8e-4; a step left out changes the first two digits.
LOSS_TOLERANCE, NORM_TOLERANCE = 1e-4, 5e-3


@dataclass(frozen=True, slots=True)
class Outcome:
    """What training some jobs for some steps took, and what it computed."""

    seconds: float
    #: Of each job's steps in turn, the untimed ones included.
    losses: tuple[float, ...]
    #: Before clipping.
    grad_norms: tuple[float, ...]


def check_same_work(ours: Outcome, peer: Outcome) -> None:
    """The same losses from the same gradients, step by step, and none of them nothing.

    Raises:
        AssertionError: then there is no figure to report.
    """
    _check("loss", ours.losses, peer.losses, LOSS_TOLERANCE)
    _check("gradient norm", ours.grad_norms, peer.grad_norms, NORM_TOLERANCE)


def _check(what: str, ours: tuple[float, ...], peer: tuple[float, ...], tolerance: float) -> None:
    assert ours, f"no {what} was recorded"
    assert len(ours) == len(peer), f"{len(ours)} against {len(peer)} of {what}"
    for step, (mine, other) in enumerate(zip(ours, peer, strict=True)):
        assert mine > 0, f"{what} {step} is {mine}"
        same = math.isclose(mine, other, rel_tol=tolerance)
        assert same, f"{what} {step} is {mine}, the peer's {other}"
