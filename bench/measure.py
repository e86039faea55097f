"""How the benchmarks measure: ours and a peer by turns, and the spread of what came out.

The machines that this runs on are small and shared: a clock of one core falls by half for seconds at a time. Turns
that lie next to each other suffer alike, so the ratio within a round says more than the ratio of two averages.
"""

import gc
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias, TypeVar

Outcome = TypeVar("Outcome")

#: Whether a larger or a smaller figure is the better one: rates, or times.
Better: TypeAlias = Literal["higher", "lower"]


class CannotRun(Exception):
    """A benchmark was asked for something that is not there; the message says what to do."""


#: Where `make bench-rivals` puts the environments of other trainers.
RIVALS = Path(__file__).resolve().parent.parent / ".rivals"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What every benchmark is told."""

    #: Pairs of measurements. A benchmark may make fewer where its peer takes long; the table says how many.
    rounds: int
    #: Where the base models lie; the only thing in it that is touched.
    home: Path
    #: Of every contestant that computes.
    threads: int = 2
    #: Where the environments of other trainers lie.
    rivals: Path = RIVALS
    #: Which contestants and workloads; empty means all. Only some benchmarks have a choice.
    peers: tuple[str, ...] = ()
    workloads: tuple[str, ...] = ()
    #: What model a benchmark from shapes makes up.
    shape: str = "1b"

    def __post_init__(self) -> None:
        """Nothing comes of no rounds."""
        if self.rounds < 1:
            raise ValueError("at least one round is needed")


@dataclass(frozen=True, slots=True)
class Spread:
    """Where measurements lie. The extremes, since with five of them nothing finer can be said."""

    median: float
    low: float
    high: float


def spread(values: Sequence[float]) -> Spread:
    """Of at least one value."""
    return Spread(statistics.median(values), min(values), max(values))


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` (above 0, up to 1) of the values do not exceed."""
    if not 0 < share <= 1:
        raise ValueError(f"{share} is not a share")
    ordered = sorted(values)
    # The rounding keeps 0.07 * 100 = 7.000000000000001 from meaning the eighth.
    return ordered[math.ceil(round(share * len(ordered), 9)) - 1]


def speedups(ours: Sequence[float], peer: Sequence[float], better: Better) -> list[float]:
    """How many times as fast as the peer ours was, round by round."""
    pairs = zip(ours, peer, strict=True)
    if better == "higher":
        return [mine / other for mine, other in pairs]
    return [other / mine for mine, other in pairs]


def interleave(
    rounds: int,
    ours: Callable[[], Outcome],
    peer: Callable[[], Outcome],
    *,
    warm: int = 1,
) -> list[tuple[Outcome, Outcome]]:
    """Ours, peer, ours, peer and so on; the first `warm` pairs are thrown away."""
    turns = take_turns(rounds, {"ours": ours, "peer": peer}, warm=warm)
    return [(turn["ours"], turn["peer"]) for turn in turns]


def take_turns(
    rounds: int, contestants: Mapping[str, Callable[[], Outcome]], *, warm: int = 0
) -> list[dict[str, Outcome]]:
    """Everyone once a round, in the same order, round after round; the first `warm` rounds are thrown away.

    Garbage is collected before each turn, so that nobody pays for what another has left behind.
    """
    turns = []
    for _ in range(warm + rounds):
        turn = {}
        for name, act in contestants.items():
            gc.collect()
            turn[name] = act()
        turns.append(turn)
    return turns[warm:]


def seconds(act: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    """How long it takes, on the wall clock: what anybody waiting would see."""
    began = clock()
    act()
    return clock() - began
