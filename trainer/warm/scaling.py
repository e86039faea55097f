"""Loss scaling for float16, whose smallest normal number is 6e-5: gradients below it would be lost.

The loss of a job is multiplied by a power of two before the backward pass and its gradient divided by it afterwards,
which changes nothing but the range (Micikevicius et al., arXiv:1710.03740). A step that overflows is computed anew with
half of the factor. Elsewhere than in float16 the factor is 1 and stays 1.
"""

from dataclasses import dataclass

from torch import Tensor

FIRST = 2.0**14
MOST = 2.0**16
#: Steps without an overflow until a larger factor is tried.
PATIENCE = 200


@dataclass(slots=True)
class LossScale:
    """One job's factor. Part of its checkpoints, so that resuming goes on with the same."""

    factor: float = 1.0
    #: Steps since the factor last changed.
    steady: int = 0
    dynamic: bool = False

    def begin(self) -> None:
        """The model computes in float16."""
        if not self.dynamic:
            self.factor, self.dynamic = FIRST, True

    def lower(self) -> bool:
        """After an overflow: whether a smaller factor is left to try."""
        if not self.dynamic or self.factor <= 1.0:
            return False
        self.factor, self.steady = self.factor / 2, 0
        return True

    def undo(self, gradient_P: Tensor) -> None:
        """Divide a finite gradient by the factor; then perhaps raise it for the next step."""
        if self.factor != 1.0:
            gradient_P.div_(self.factor)
        self.steady += 1
        if self.dynamic and self.steady >= PATIENCE and self.factor < MOST:
            self.factor, self.steady = self.factor * 2, 0
