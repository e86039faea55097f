"""Who looks on while the bucket is asked: `metrics.py` counts, and nobody does where nobody is named."""

from typing import Literal, Protocol, TypeAlias

Operation: TypeAlias = Literal["put", "head", "get", "list", "delete"]
Outcome: TypeAlias = Literal["ok", "error"]


class Watch(Protocol):
    """Is told of each try, from whichever thread."""

    def tried(self, operation: Operation, outcome: Outcome, seconds: float) -> None:
        """It was tried once, and took so long. What is not there is an answer, and no error."""

    def moved(self, operation: Operation, size: int) -> None:
        """So many bytes were sent or have come."""


class Unwatched:
    """Nobody."""

    def tried(self, operation: Operation, outcome: Outcome, seconds: float) -> None:
        pass

    def moved(self, operation: Operation, size: int) -> None:
        pass
