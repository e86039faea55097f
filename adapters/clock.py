"""What time it is, as a parameter: tests move it."""

from collections.abc import Callable
from typing import TypeAlias

#: Returns Unix seconds.
Clock: TypeAlias = Callable[[], float]
