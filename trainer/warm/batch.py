"""Micro-batches: whole samples of any jobs, laid end to end, each job's together.

Where rows of one job begin with the same tokens (a system prompt, the question of a comparison), those are laid down
once, as a stem that the rest of each row attends to. Attention is causal, so that the stem's hidden states are the same
in every row: the result is the same, for fewer tokens. For the same reason a row ends before its last target, which is
predicted and never read, and with it whatever follows.

Shapes: T tokens laid down, N target positions.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from trainer.warm.adapter import Adapter
from trainer.warm.attention import Packing, Piece
from trainer.warm.loss import LateWeights, Wanted
from trainer.warm.narrow import Narrow
from trainer.warm.objective import Objective
from trainer.warm.plan import Segment
from trainer.warm.rows import Row, Sample, common_prefix

#: A stem that saves fewer tokens than this is not worth the attention call that it costs.
LEAST_SAVED = 24


@dataclass(frozen=True, slots=True)
class Share:
    """The samples that one job has in a micro-batch."""

    samples: Sequence[Sample]
    #: None means the base model as it is.
    adapter: Adapter | None
    objective: Objective
    #: The sizes of all samples of the job's optimizer step: what its loss is divided by.
    step_size: float = 1.0
    #: Seeds of the rows' dropout masks.
    seeds: Sequence[int] = ()

    @property
    def tokens(self) -> int:
        """Tokens of all rows, before any is shared."""
        return sum(sample.tokens for sample in self.samples)

    @property
    def targets(self) -> int:
        """Target tokens of all rows."""
        return sum(sample.targets for sample in self.samples)

    @property
    def rows(self) -> list[Row]:
        """All rows, in order."""
        return [row for sample in self.samples for row in sample.rows]


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """What one pass through the base model computes, on its device."""

    tokens_T: Tensor
    positions_T: Tensor
    packing: Packing
    segments: tuple[Segment, ...]
    #: Positions whose next token is a target.
    predicts_N: Tensor
    wanted: Wanted
    #: What the last layer's feed-forward part is for.
    narrow: Narrow | None


@dataclass(frozen=True, slots=True)
class _Placed:
    """A row in the flat sequence: tokens `stem:stem + shared` and then `start:stop`."""

    row: Row
    stem: int
    shared: int
    start: int
    stop: int

    @property
    def piece(self) -> Piece:
        return Piece(self.start, self.stop, self.stem if self.shared else 0, self.shared)

    def flat(self, at_N: Tensor) -> Tensor:
        """Where the row's positions lie."""
        return torch.where(at_N < self.shared, at_N + self.stem, at_N - self.shared + self.start)


def by_share(shares: Sequence[Share], told_2N: Tensor) -> tuple[Tensor, ...]:
    """What there is to tell of each share's targets [2, N of the share]."""
    return told_2N.split([share.targets for share in shares], dim=-1)


def assemble(shares: Sequence[Share], device: torch.device, dtype: torch.dtype) -> MicroBatch:
    """Lay out the shares. `dtype` is that of the loss: float32, or float64 where the base model is."""
    tokens: list[Tensor] = []
    positions: list[Tensor] = []
    pieces: list[Piece] = []
    placed: list[_Placed] = []
    segments: list[Segment] = []
    end = 0
    known = [share.objective.weights(share.samples) for share in shares]
    for share in shares:
        start, own = end, []
        for shared, group in _stem_groups(share):
            stem = end
            if shared:
                tokens.append(group[0].tokens_T[:shared])
                positions.append(torch.arange(shared))
                pieces.append(Piece(stem, stem + shared))
                end += shared
            for row in group:
                length = row.read - shared
                own.append(_Placed(row, stem, shared, end, end + length))
                tokens.append(row.tokens_T[shared : row.read])
                positions.append(torch.arange(shared, row.read))
                end += length
        pieces += [one.piece for one in own]
        placed += own
        if share.adapter is not None:
            segments.append(Segment(start, end, share.adapter, tuple(_seeded(share, own))))
    predicts_N = torch.cat([one.flat(one.row.targets_at_N - 1) for one in placed])
    narrow = Narrow.of(predicts_N, segments, end)
    return MicroBatch(
        tokens_T=torch.cat(tokens).to(device),
        positions_T=torch.cat(positions).to(device),
        packing=Packing.of(sorted(pieces, key=lambda piece: piece.start), device),
        segments=tuple(segments),
        predicts_N=predicts_N.to(device),
        wanted=Wanted(
            torch.cat([one.row.tokens_T[one.row.targets_at_N] for one in placed]).to(device),
            torch.cat(list(_early_weights(shares, known))).to(device, dtype),
            tuple(_late_weights(shares, known)),
        ),
        narrow=narrow and replace(narrow, at_M=narrow.at_M.to(device)),
    )


def _stem_groups(share: Share) -> list[tuple[int, list[Row]]]:
    """Rows that share a stem, with its length, in the order of the share: all of them, sample by sample, or none."""
    rows = share.rows
    apart = [(0, [row]) for row in rows]
    if share.adapter is not None and share.adapter.spec.dropout:
        return apart  # each row has masks of its own, so nothing is the same in two of them
    best, saved = apart, LEAST_SAVED - 1
    for rows_of_group in ([list(sample.rows) for sample in share.samples], [rows]):
        groups = [(_stem(group), group) for group in rows_of_group]
        saving = sum((len(group) - 1) * shared for shared, group in groups)
        if saving > saved:
            best, saved = groups, saving
    return best


def _stem(rows: Sequence[Row]) -> int:
    return common_prefix(rows) if len(rows) > 1 else 0


def _seeded(share: Share, placed: Sequence[_Placed]) -> Iterator[tuple[int, int, int]]:
    for one, seed in zip(placed, share.seeds or [0] * len(placed), strict=True):
        yield one.start, one.stop, seed


def _early_weights(shares: Sequence[Share], known: Sequence[Tensor | None]) -> Iterator[Tensor]:
    for share, weights_N in zip(shares, known, strict=True):
        if weights_N is None:
            yield torch.zeros(share.targets, dtype=torch.float64)
        else:
            yield weights_N.double() / share.step_size


def _late_weights(shares: Sequence[Share], known: Sequence[Tensor | None]) -> Iterator[LateWeights]:
    start = 0
    for share, weights_N in zip(shares, known, strict=True):
        stop = start + share.targets
        if weights_N is None:
            yield LateWeights(start, stop, _weigher(share))
        start = stop


def _weigher(share: Share) -> Callable[[Tensor], Tensor]:
    def weigh(losses_N: Tensor) -> Tensor:
        return share.objective.judge(share.samples, losses_N).weights_N / share.step_size

    return weigh
