"""Who computes what: the samples of a micro-batch, dealt to the ranks.

Shapes: N target tokens.
"""

import dataclasses
import heapq
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from trainer.warm.batch import Share
from trainer.warm.crew import Crew
from trainer.warm.objective import CrossEntropy
from trainer.warm.rows import Row, Sample


@dataclass(frozen=True, slots=True)
class Part:
    """What one rank computes in one pass."""

    #: Never empty; see `idle_share`.
    shares: Sequence[Share]
    #: Where its targets lie among those of the whole. Empty for a rank that has nothing to do.
    at_N: Tensor


def over_ranks(
    crew: Crew,
    shares: Sequence[Share],
    room: int | None,
    compute: Callable[[Sequence[Share]], Tensor],
    *,
    backward: bool,
) -> Tensor:
    """What there is to tell of each target token [2, N], in parts, and as many passes as the room of a rank asks for.

    Args:
        crew: who takes part.
        shares: of all jobs; the same on every rank.
        room: tokens that one rank may have in a pass; one sample may have more. None for one pass, however large.
        compute: one pass over the given shares, which returns that of their targets.
        backward: whether `compute` makes a backward pass too.

    Raises:
        torch.OutOfMemoryError: on every rank.
    """
    if crew.size == 1:
        return crew.run(partial(compute, shares), backward=backward)
    whole_2N: Tensor | None = None
    for one in deal(crew, shares, room):
        told_2N = crew.run(partial(compute, one.shares), backward=backward)
        if whole_2N is None:
            whole_2N = told_2N.new_zeros(2, sum(share.targets for share in shares))
        whole_2N[:, one.at_N.to(whole_2N.device)] = told_2N[:, : len(one.at_N)]
    assert whole_2N is not None
    crew.sum_(whole_2N)
    return whole_2N


def deal(crew: Crew, shares: Sequence[Share], room: int | None) -> list[Part]:
    """This rank's part of each pass; as many on every rank."""
    samples = [
        (at, index) for at, share in enumerate(shares) for index in range(len(share.samples))
    ]
    costs = [shares[at].samples[index].tokens for at, index in samples]
    bins = deal_out(costs, crew.size, room)
    mine = bins[crew.rank :: crew.size]
    return [_part(shares, [samples[at] for at in one]) for one in mine]


def largest_part(samples: Sequence[Sample], ranks: int, room: int) -> int:
    """Tokens of the largest part of any rank: what has to fit into memory at once."""
    costs = [sample.tokens for sample in samples]
    return max(sum(costs[at] for at in one) for one in deal_out(costs, ranks, room))


def deal_out(costs: Sequence[int], ranks: int, room: int | None) -> list[list[int]]:
    """Things of these costs in bins of nearly equal cost: `ranks` of them for each pass, one pass after the other.

    The largest goes first, always into the emptiest bin, which is at most a third worse than the best there is (Graham,
    1969). As few passes as keep every bin within `room`, except for a single thing that is larger by itself.
    """
    largest_first = sorted(range(len(costs)), key=lambda at: (-costs[at], at))
    for passes in range(1, max(1, len(costs)) + 1):
        bins: list[list[int]] = [[] for _ in range(passes * ranks)]
        loads = [(0, number) for number in range(len(bins))]
        for at in largest_first:
            load, number = loads[0]
            bins[number].append(at)
            heapq.heapreplace(loads, (load + costs[at], number))
        full = {number: load for load, number in loads}
        if room is None or all(
            full[number] <= room or len(one) <= 1 for number, one in enumerate(bins)
        ):
            break
    # Heavy bins together: a pass takes as long as its heaviest.
    heaviest_first = sorted(range(len(bins)), key=lambda number: (-full[number], number))
    return [sorted(bins[number]) for number in heaviest_first]


def idle_share() -> Share:
    """What a rank without samples computes, since the others need its pieces of the layers: two tokens of no weight."""
    row = Row(torch.zeros(2, dtype=torch.long), torch.tensor([0.0, 1.0]))
    return Share([Sample((row,))], None, CrossEntropy(), step_size=math.inf)


def _part(shares: Sequence[Share], chosen: Sequence[tuple[int, int]]) -> Part:
    if not chosen:
        return Part([idle_share()], torch.zeros(0, dtype=torch.long))
    parts, places, start = [], [], 0
    for at, share in enumerate(shares):
        own = {index for owner, index in chosen if owner == at}
        if own:
            parts.append(_only(share, own))
        for index, sample in enumerate(share.samples):
            if index in own:
                places.append(torch.arange(start, start + sample.targets))
            start += sample.targets
    return Part(parts, torch.cat(places))


def _only(share: Share, own: set[int]) -> Share:
    """The share's samples of these indices, with their rows' seeds."""
    samples: list[Sample] = []
    seeds: list[int] = []
    row = 0
    for index, sample in enumerate(share.samples):
        if index in own:
            samples.append(sample)
            seeds += share.seeds[row : row + len(sample.rows)]
        row += len(sample.rows)
    return dataclasses.replace(share, samples=samples, seeds=seeds)
