"""That two trainings did the same work: otherwise the faster one may only have done less."""

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How far two figures of the same step may be apart, relatively."""

    loss: float
    norm: float


#: Measured over seven steps in float32: 5e-6 and 8e-4; a step left out changes the first two digits.
FLOAT32 = Tolerance(loss=1e-4, norm=5e-3)
#: Three digits are all that bfloat16 has, and the peer keeps its adapters in float32.
BFLOAT16 = Tolerance(loss=1e-2, norm=1e-1)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What training some jobs for some steps took, and what it computed."""

    seconds: float
    #: Of each job's steps in turn, the untimed ones included.
    losses: tuple[float, ...]
    #: Before clipping.
    grad_norms: tuple[float, ...]


def check_same_work(ours: Outcome, peer: Outcome, tolerance: Tolerance = FLOAT32) -> None:
    """The same losses from the same gradients, step by step, and none of them nothing.

    Raises:
        AssertionError: then there is no figure to report.
    """
    _check("loss", ours.losses, peer.losses, tolerance.loss)
    _check("gradient norm", ours.grad_norms, peer.grad_norms, tolerance.norm)


def _check(what: str, ours: tuple[float, ...], peer: tuple[float, ...], tolerance: float) -> None:
    assert ours, f"no {what} was recorded"
    assert len(ours) == len(peer), f"{len(ours)} against {len(peer)} of {what}"
    for step, (mine, other) in enumerate(zip(ours, peer, strict=True)):
        assert mine > 0, f"{what} {step} is {mine}"
        same = math.isclose(mine, other, rel_tol=tolerance)
        assert same, f"{what} {step} is {mine}, the peer's {other}"
