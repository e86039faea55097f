"""Probes: what training thought of a few replies, so that an engine can be held to it after loading."""

from collections.abc import Sequence

from torch import Tensor

from adapters.manifest import Probe
from trainer.warm.adapter import Adapter
from trainer.warm.batch import Share
from trainer.warm.model import BaseModel
from trainer.warm.objective import CrossEntropy
from trainer.warm.rows import Row, Sample

PROBES = 4
#: Short, because the engine computes them before it may answer.
LONGEST_PROBE = 128


def take_probes(base: BaseModel, adapter: Adapter, rows: Sequence[Row]) -> tuple[Probe, ...]:
    """Probes of the first rows that are short enough up to their first reply token; at most four."""
    probes: list[Probe] = []
    for row in rows:
        if len(probes) == PROBES:
            break
        excerpt = _excerpt(row)
        if excerpt is not None:
            probes.append(_probe(base, adapter, excerpt))
    return tuple(probes)


def _excerpt(row: Row) -> Row | None:
    """The row through the end of its first reply, or as much of it as fits."""
    targets = (row.weights_T > 0).tolist()
    start = targets.index(True)
    stop = targets.index(False, start) if False in targets[start:] else len(targets)
    stop = min(stop, LONGEST_PROBE)
    return Row(row.tokens_T[:stop], row.weights_T[:stop]) if start < stop else None


def _probe(base: BaseModel, adapter: Adapter, row: Row) -> Probe:
    """With and without the adapter in one pass: where weights are read from files, each pass reads all of them."""
    sample = Sample((row,))
    losses_N = base.look([Share([sample], one, CrossEntropy()) for one in (adapter, None)])
    adapted_N, plain_N = losses_N.split(row.targets)
    return Probe(
        token_ids=tuple(row.tokens_T.tolist()),
        reply_start=int(row.targets_at_N[0]),
        adapter_logprobs=_logprobs(adapted_N),
        base_logprobs=_logprobs(plain_N),
    )


def _logprobs(losses_N: Tensor) -> tuple[float, ...]:
    return tuple((-losses_N).tolist())
