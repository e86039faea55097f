"""How large the experiments are and where their randomness comes from. The command line is read here only.

pytest tests/chaos                                  CI size, as in `make test`
pytest tests/chaos --chaos release                  release size
pytest tests/chaos --scoreboard docs/reliability.md what was found goes into the table of that page
pytest tests/chaos -p randomly -p "randomly_seed=7" the seed is pytest-randomly's, which prints it
"""

import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest

CI, RELEASE = "ci", "release"


@dataclass
class Outcome:
    """One row of the scoreboard."""

    id: str
    what: str
    trials: int = 0
    unit: str = "trials"
    result: str = ""
    #: Of some experiments one counts no failures among trials.
    bounded: bool = True
    #: Of one that has a size of its own.
    size: str = ""

    @property
    def bound(self) -> str:
        """No failure in N trials: with 95 % confidence fewer than 3/N of them fail."""
        if not self.bounded or not self.trials:
            return "-"
        return f"{min(1.0, 3 / self.trials):.2%}"


@dataclass
class Chaos:
    """What an experiment is given."""

    size: str
    seed: int
    outcomes: list[Outcome] = field(default_factory=list)

    def of_size(self, ci: int, release: int) -> int:
        """The number that goes with the size of this run."""
        return release if self.size == RELEASE else ci

    def dice(self, name: str) -> random.Random:
        """Randomness for one experiment, the same for the same seed whatever else runs."""
        return random.Random(f"{self.seed}/{name}")

    @contextmanager
    def experiment(self, name: str, what: str) -> Iterator[Outcome]:
        """Inside, the experiment fills in what it has found; what it raises is the result otherwise."""
        outcome = Outcome(name, what, size=self.size)
        self.outcomes.append(outcome)
        sys.stdout.write(f"{name}: seed {self.seed}, {self.size} size\n")
        try:
            yield outcome
        except BaseException as error:
            outcome.result = f"**FAILED**: {type(error).__name__}"
            outcome.bounded = False
            raise


def chaos_of(config: pytest.Config) -> Chaos:
    """From the command line."""
    size = config.getoption("--chaos", default=CI)
    return Chaos(size, int(config.getoption("randomly_seed", default=0) or 0))
