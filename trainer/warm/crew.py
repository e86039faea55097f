"""The ranks of one training process: one process a device, which train the same jobs together.

Every rank runs the same code on the same orders, so that all decide alike. What could make them differ goes through
here: what has arrived, what time it is, whether a file was written, how much memory there is. Rank 0 leads: it alone
speaks with the worker and writes files.
"""

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from torch import Tensor

T = TypeVar("T")


class Crew(Protocol):
    """All ranks, as each of them sees them. All ranks must call the methods in the same order."""

    @property
    def rank(self) -> int:
        """Which one this is; 0 leads."""

    @property
    def size(self) -> int:
        """How many there are."""

    def agree(self, value: T) -> T:
        """The leader's value, everywhere. JSON must be able to carry it."""

    def least(self, number: int) -> int:
        """The smallest of the ranks' numbers."""

    def sum_(self, tensor: Tensor) -> None:
        """Replace the tensor by the sum of all ranks' tensors; the same bits everywhere."""

    def run(self, compute: Callable[[], Tensor], *, backward: bool) -> Tensor:
        """One forward pass through the base model, and one backward pass where `backward` says so, on every rank.

        Returns:
            What `compute` returned here.

        Raises:
            torch.OutOfMemoryError: on every rank, if the pass did not fit on one of them.
        """

    def spread(self, model: Any) -> None:
        """Give every rank its piece of a model whose layers are the ones that will be used."""


class Solo:
    """One process, one device: there is nobody to agree with."""

    rank = 0
    size = 1

    def agree(self, value: T) -> T:
        """See Crew."""
        return value

    def least(self, number: int) -> int:
        """See Crew."""
        return number

    def sum_(self, tensor: Tensor) -> None:
        """See Crew."""

    def run(self, compute: Callable[[], Tensor], *, backward: bool) -> Tensor:  # noqa: ARG002
        """See Crew."""
        return compute()

    def spread(self, model: Any) -> None:
        """See Crew."""
