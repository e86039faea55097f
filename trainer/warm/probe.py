"""Probes: what training thought of a few replies, so that an engine can be held to it after loading."""

import itertools
from collections.abc import Iterable

from torch import Tensor

from adapters.manifest import Probe
from trainer.warm.adapter import Adapter
from trainer.warm.batch import Share
from trainer.warm.model import BaseModel
from trainer.warm.objective import CrossEntropy
from trainer.warm.rows import Row, Sample

#: Few and short: they stand between the last step and the published version, and an engine computes them before it may
#: answer.
PROBES = 2
#: Tokens of each: of the reply, and before it.
REPLY_TOKENS, CONTEXT_TOKENS = 12, 8


def take_probes(base: BaseModel, adapter: Adapter, rows: Iterable[Row]) -> tuple[Probe, ...]:
    """Probes of the first rows, around the beginning of their first reply; one pass for all."""
    taught = (row for row in rows if row.targets)
    excerpts = [_excerpt(row) for row in itertools.islice(taught, PROBES)]
    if not excerpts:
        return ()
    samples = [Sample((row,)) for row in excerpts]
    shares = [Share(samples, with_it, CrossEntropy()) for with_it in (adapter, None)]
    counts = [row.targets for row in excerpts]
    losses_N, _ = base.look(shares)
    losses = losses_N.split([*counts, *counts])
    both = zip(excerpts, losses[: len(counts)], losses[len(counts) :], strict=True)
    return tuple(_probe(*one) for one in both)


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
