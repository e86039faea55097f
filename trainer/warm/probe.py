"""Probes: what training thought of a few replies, so that an engine can be held to it after loading."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor

from adapters.manifest import Probe
from adapters.proof import tells_enough
from trainer.warm.adapter import Adapter
from trainer.warm.batch import Share
from trainer.warm.model import BaseModel
from trainer.warm.objective import CrossEntropy
from trainer.warm.parts import deal_out
from trainer.warm.rows import Row, Sample

#: Few and short: they stand between the last step and the published version, and an engine computes them before it may
#: answer. The second only where the first does not tell enough.
PROBES = 2
#: Tokens of each: of the reply, and before it.
REPLY_TOKENS, CONTEXT_TOKENS = 12, 8


@dataclass(frozen=True, slots=True)
class Taught:
    """An adapter, and rows that it was taught."""

    adapter: Adapter
    rows: Iterable[Row]


def take_probes(
    base: BaseModel, all_taught: Sequence[Taught], room: int
) -> list[tuple[Probe, ...]]:
    """Probes of each one's first rows, around the beginning of their first reply.

    As few passes as keep each within `room` tokens: one for eight took 0.6 of what one for each took.
    """
    excerpts = [_excerpts(taught.rows) for taught in all_taught]
    probes: list[tuple[Probe, ...]] = [()] * len(excerpts)
    for number in range(PROBES):
        wanting = [
            at
            for at, own in enumerate(excerpts)
            if number < len(own) and not any(map(tells_enough, probes[at]))
        ]
        # The same everywhere: ranks that do not take part in a pass would keep the others waiting for ever.
        wanting = base.crew.agree(wanting)
        if not wanting:
            break
        asked = [(all_taught[at].adapter, excerpts[at][number]) for at in wanting]
        for batch in deal_out([2 * len(excerpt) for _, excerpt in asked], 1, room):
            for at, probe in zip(batch, _look(base, [asked[at] for at in batch]), strict=True):
                probes[wanting[at]] += (probe,)
    return probes


def _excerpts(rows: Iterable[Row]) -> list[Row]:
    taught = (row for row in rows if row.targets)
    return [_excerpt(row) for row in itertools.islice(taught, PROBES)]


def _look(base: BaseModel, asked: Sequence[tuple[Adapter, Row]]) -> Iterator[Probe]:
    """One pass: what each adapter makes of its excerpt, and then the base model of all of them."""
    shares = [_share(adapter, [excerpt]) for adapter, excerpt in asked]
    everyone = [excerpt for _, excerpt in asked]
    losses_N, _ = base.look([*shares, _share(None, everyone)])
    counts = [excerpt.targets for excerpt in everyone]
    losses = losses_N.split([*counts, *counts])
    yield from map(_probe, everyone, losses[: len(counts)], losses[len(counts) :])


def _share(adapter: Adapter | None, excerpts: Sequence[Row]) -> Share:
    return Share([Sample((row,)) for row in excerpts], adapter, CrossEntropy())


def _excerpt(row: Row) -> Row:
    """The beginning of the first reply with a little before it: a prompt of its own, whatever the row begins with."""
    targets = (row.weights_T > 0).tolist()
    start = targets.index(True)
    stop = targets.index(False, start) if False in targets[start:] else len(targets)
    part = slice(max(0, start - CONTEXT_TOKENS), min(stop, start + REPLY_TOKENS))
    return Row(row.tokens_T[part], row.weights_T[part])


def _probe(row: Row, adapter_losses_N: Tensor, base_losses_N: Tensor) -> Probe:
    return Probe(
        token_ids=tuple(row.tokens_T.tolist()),
        reply_start=int(row.targets_at_N[0]),
        adapter_logprobs=tuple((-adapter_losses_N).tolist()),
        base_logprobs=tuple((-base_losses_N).tolist()),
    )
