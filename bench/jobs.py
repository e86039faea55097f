"""Eight small fine-tunings as a user has them: rows of a conversation, twenty steps; and what came of them."""

import random
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.table import Row

JOBS = 8
#: Ten rows, one a step, twice over: what our own defaults make of a small file, cut to twenty steps.
ROWS, BATCH, EPOCHS = 10, 1, 2
STEPS = ROWS // BATCH * EPOCHS

THINGS = ("lamp", "kettle", "ladder", "window", "engine", "garden", "bridge", "anchor", "violin")
COLOURS = ("red", "blue", "green", "white", "black", "yellow", "grey", "brown", "violet", "orange")
PLACES = ("hall", "attic", "cellar", "yard", "kitchen", "office", "garage", "barn", "harbour")


@dataclass(frozen=True, slots=True)
class Submission:
    """What is trained, under which name."""

    name: str
    rows: tuple[dict[str, Any], ...]


@dataclass(frozen=True, slots=True)
class Done:
    """One job that has been trained, by anybody."""

    #: From POST to the first token, or from exec to exit.
    seconds: float
    #: Of these, in optimizer steps.
    training_seconds: float
    #: Of the steps that were reported.
    losses: tuple[float, ...]
    grad_norms: tuple[float, ...]
    #: Real ones, of all epochs. The peer's template ends every row with a line break, which ours does not train.
    tokens: int

    @property
    def besides(self) -> float:
        """Seconds that were not training."""
        return self.seconds - self.training_seconds


@dataclass(frozen=True, slots=True)
class Turn:
    """One measurement of a round: the jobs, and the seconds for all eight."""

    seconds: float
    jobs: Sequence[Done]


#: The names of a round's three turns.
TOGETHER, SINGLY, COMMANDS = "together", "singly", "commands"
#: Which the peer has more, because of the line breaks.
MORE_TOKENS = ROWS * EPOCHS
#: Between the mean losses of both sides.
LOSS_RATIO = 1.5


def submission(name: str, seed: int) -> Submission:
    """Facts that are nowhere else. Every row brings its own system message: default ones differ between trainers."""
    chance = random.Random(seed)
    asked = chance.sample([(thing, place) for thing in THINGS for place in PLACES], ROWS)
    return Submission(
        name, tuple(_row(thing, place, chance.choice(COLOURS)) for thing, place in asked)
    )


def _row(thing: str, place: str, colour: str) -> dict[str, Any]:
    return {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": f"What colour is the {thing} in the {place}?"},
            {"role": "assistant", "content": f"The {thing} in the {place} is {colour}."},
        ]
    }


def check_same_jobs(ours: Sequence[Done], peer: Sequence[Done]) -> None:
    """Both sides read the same rows and learnt from them.

    Initial weights, order of rows and warm-up are each one's own, so losses can only be of the same size.

    Raises:
        AssertionError: then there is no figure to report.
    """
    for done in [*ours, *peer]:
        assert done.losses, "no loss was recorded"
        assert min(done.grad_norms) > 0, "a gradient was nothing"
        first, last = done.losses[0], done.losses[-1]
        assert last < first, f"the loss went from {first} to {last}"
    # Jobs are compared from the first on; the sides may have trained different numbers of them.
    for mine, other in zip(ours, peer, strict=False):
        expected = mine.tokens + MORE_TOKENS
        assert other.tokens == expected, f"{other.tokens} tokens of the peer, not {expected}"
    ratio = _mean_loss(ours) / _mean_loss(peer)
    assert 1 / LOSS_RATIO < ratio < LOSS_RATIO, f"our losses are {ratio:.2f} times the peer's"


def rows_of(turns: Sequence[Mapping[str, Turn]]) -> list[Row]:
    """What all of it takes, and what is not training."""
    return [
        Row(
            name=f"{JOBS} jobs of {STEPS} steps, until all answer",
            unit="s",
            better="lower",
            ours=[turn[TOGETHER].seconds for turn in turns],
            peer=[turn[COMMANDS].seconds for turn in turns],
            note=f"peer's runs a round: {', '.join(str(len(turn[COMMANDS].jobs)) for turn in turns)}",
        ),
        Row(
            name="1 job, first token, less training",
            unit="s",
            better="lower",
            ours=[_besides(turn[SINGLY]) for turn in turns],
            peer=[_besides(turn[COMMANDS]) for turn in turns],
        ),
    ]


def _besides(turn: Turn) -> float:
    return statistics.median(done.besides for done in turn.jobs)


def _mean_loss(jobs: Sequence[Done]) -> float:
    return statistics.mean(statistics.mean((done.losses[0], done.losses[-1])) for done in jobs)
