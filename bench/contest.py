"""One training workload: everyone by turns, proof of equal work, and a row for each peer."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol, TypeAlias

from bench.measure import take_turns
from bench.proof import FLOAT32, Outcome, Tolerance, check_same_work
from bench.table import Row
from bench.workloads import Workload

OURS = "ours"

#: Steps of a workload.
Train: TypeAlias = Callable[[Workload], Outcome]


class Products(Protocol):
    """The least that a step takes: its matrix products."""

    def frozen_flop(self, tokens: int, targets: int) -> float:
        """Of one step, through the frozen weights."""
        ...

    def flop(self, tokens: int, targets: int) -> float:
        """Of one step, with the adapters' own."""
        ...

    def seconds(self, tokens: int, targets: int, steps: int) -> float:
        """How long those through the frozen weights take, alone."""
        ...


@dataclass(frozen=True, slots=True)
class Stage:
    """Who trains, us among them, and what nothing but matrix products would take."""

    trainers: Mapping[str, Train]
    #: By what the limit is called.
    limits: Mapping[str, Products]
    tolerance: Tolerance = FLOAT32


def contest(rounds: int, stage: Stage, workload: Workload) -> list[Row]:
    """Everyone once a round on one workload.

    Raises:
        AssertionError: a peer did other work than we did, so there is no figure.
    """
    contestants = {name: partial(act, workload) for name, act in stage.trainers.items()}
    contestants |= {
        name: partial(_limit, products, workload) for name, products in stage.limits.items()
    }
    turns = take_turns(rounds, contestants)
    peers = [name for name in stage.trainers if name != OURS]
    for turn in turns:
        for name in peers or [OURS]:
            _check(workload, turn, name, stage.tolerance)
    limits = [_of(name, workload, turns, products) for name, products in stage.limits.items()]
    return [*_against(workload, turns, peers), *limits]


def _limit(products: Products, workload: Workload) -> Outcome:
    seconds = products.seconds(workload.read, workload.targets, workload.steps)
    return Outcome(seconds, (), ())


def _check(
    workload: Workload, turn: Mapping[str, Outcome], name: str, tolerance: Tolerance
) -> None:
    try:
        check_same_work(turn[OURS], turn[name], tolerance)
    except AssertionError as error:
        error.add_note(f"{workload.name}: {name}")
        raise


def _against(
    workload: Workload, turns: Sequence[Mapping[str, Outcome]], peers: Sequence[str]
) -> list[Row]:
    """Real tokens a second."""
    tokens = workload.steps * workload.tokens
    return [
        Row(
            name=f"{workload.name}, {workload.what}: {peer}",
            unit="tok/s",
            better="higher",
            ours=[tokens / turn[OURS].seconds for turn in turns],
            peer=[tokens / turn[peer].seconds for turn in turns],
            note=f"padding {workload.padding:.2f}x" if workload.padding > 1 else "",
        )
        for peer in peers
    ]


def _of(
    limit: str, workload: Workload, turns: Sequence[Mapping[str, Outcome]], products: Products
) -> Row:
    """Operations a second that had to be done: the ratio is the share of the machine that is used."""
    size = workload.read, workload.targets
    needed, frozen = (
        workload.steps * flop / 1e9 for flop in (products.flop(*size), products.frozen_flop(*size))
    )
    return Row(
        name=f"{workload.name}: of {limit}",
        unit="GFLOP/s",
        better="higher",
        ours=[needed / turn[OURS].seconds for turn in turns],
        peer=[frozen / turn[limit].seconds for turn in turns],
    )
