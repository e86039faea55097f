"""Attention over packed rows: one flat sequence, no token sees another row.

Registered with transformers under `PACKED`, and told the row boundaries explicitly: transformers would otherwise guess
them from restarting positions, and guesses nothing at all once a cache object exists (its default), in which case rows
silently attend across each other. So the model is only ever called with `use_cache=False`, too.

A row may begin with a stem that it shares with others (batch.py): then its own tokens are a piece that sees the stem.

Shapes: T tokens of all pieces, K keys that they see, S pieces of a group, N its tokens, M its longest, H query heads,
G key-value heads, D head size.
"""

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.attention.varlen import varlen_attn
from torch.nn.functional import scaled_dot_product_attention
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from trainer.warm.grouped_attention import grouped_attention

PACKED = "graft_packed"

#: One more call costs as much as so many pairs of query and key (bench/LOG.md).
PAIRS_OF_A_CALL = 4000
#: Beyond so many of them in a piece, SDPA on a CPU is as fast as our own, and remembers less.
PAIRS_OF_A_SHORT_PIECE = 1 << 15


@dataclass(frozen=True, slots=True)
class Piece:
    """The tokens `start:stop` of the flat sequence, which see those before them in the piece, and all of their stem."""

    start: int
    stop: int
    #: Where the stem begins, and its length; 0 where the piece begins its row.
    stem: int = 0
    shared: int = 0

    @property
    def length(self) -> int:
        """Tokens of the piece itself."""
        return self.stop - self.start


@dataclass(frozen=True, slots=True)
class PaddedGroup:
    """Adjacent pieces of similar length, with the same stem if any, that share one padded SDPA call."""

    pieces: int
    #: Tokens of all pieces, and of the longest.
    tokens: int
    longest: int
    stem: int
    shared: int
    #: Where the group's tokens lie in the padded [pieces * longest] sequence.
    padded_at_N: Tensor

    @property
    def dense(self) -> bool:
        """Whether padding is nil, so that reshaping is enough."""
        return self.tokens == self.pieces * self.longest

    @property
    def pairs(self) -> int:
        """Of query and key in a piece."""
        return _pairs(self.longest, self.shared)

    def causal(self, window: int | None) -> bool:
        """Whether there is no more to it than that nobody looks ahead."""
        return not self.shared and (window is None or window >= self.longest)


@dataclass(frozen=True, slots=True)
class Packing:
    """Who sees whom in one micro-batch, on the device that computes it."""

    pieces: tuple[Piece, ...]
    #: In the order of the flat sequence, which is their concatenation.
    groups: tuple[PaddedGroup, ...]
    #: int32 [pieces + 1], as flash attention wants them: of the queries, and of the keys in `keys_at_K`.
    boundaries: Tensor
    key_boundaries: Tensor
    #: The keys of each piece, its stem's first; None where no piece has a stem, so that they are the flat sequence.
    keys_at_K: Tensor | None
    #: What layers have asked for so far: who sees whom in a group, for a window; see `_hidden`.
    hidden: dict[tuple[int, int | None], Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, pieces: Sequence[Piece], device: torch.device) -> Self:
        """Lay out pieces that follow each other without a gap."""
        groups = tuple(_lay_out(members, device) for members in group_by_length(pieces))
        seen = [piece.shared + piece.length for piece in pieces]
        keys_at_K = None
        if any(piece.shared for piece in pieces):
            spans = [
                span
                for piece in pieces
                for span in ((piece.stem, piece.stem + piece.shared), (piece.start, piece.stop))
            ]
            keys_at_K = torch.cat([torch.arange(*span, device=device) for span in spans])
        return cls(
            tuple(pieces),
            groups,
            _boundaries([piece.length for piece in pieces], device),
            _boundaries(seen, device),
            keys_at_K,
        )


def pieces_of(lengths: Sequence[int]) -> list[Piece]:
    """Rows of these lengths laid end to end, without stems."""
    stops = list(itertools.accumulate(lengths))
    return [Piece(stop - length, stop) for length, stop in zip(lengths, stops, strict=True)]


def _boundaries(lengths: Sequence[int], device: torch.device) -> Tensor:
    return torch.tensor([0, *itertools.accumulate(lengths)], dtype=torch.int32, device=device)


def group_by_length(pieces: Sequence[Piece]) -> list[list[Piece]]:
    """Adjacent pieces together where padding them costs less than a call of their own."""
    groups: list[list[Piece]] = []
    for piece in pieces:
        if groups and _belongs(piece, groups[-1]):
            groups[-1].append(piece)
        else:
            groups.append([piece])
    return groups


def _belongs(piece: Piece, group: Sequence[Piece]) -> bool:
    first = group[0]
    if (first.stem, first.shared) != (piece.stem, piece.shared):
        return False
    longest = max(one.length for one in group)
    apart = len(group) * _pairs(longest, first.shared) + _pairs(piece.length, first.shared)
    together = (len(group) + 1) * _pairs(max(longest, piece.length), first.shared)
    return together - apart <= PAIRS_OF_A_CALL


def _pairs(length: int, shared: int) -> int:
    return length * (shared + length)


def _lay_out(members: list[Piece], device: torch.device) -> PaddedGroup:
    longest = max(piece.length for piece in members)
    padded = [
        torch.arange(piece.length, device=device) + at * longest for at, piece in enumerate(members)
    ]
    padded_at_N = torch.cat(padded)
    stem, shared = members[0].stem, members[0].shared
    return PaddedGroup(len(members), len(padded_at_N), longest, stem, shared, padded_at_N)


def packed_attention(
    module: nn.Module,
    query_1HTD: Tensor,
    key_1GTD: Tensor,
    value_1GTD: Tensor,
    attention_mask: Tensor | None,  # noqa: ARG001  transformers' signature; never needed here
    **options: Any,
) -> tuple[Tensor, None]:
    """Causal attention within each row. transformers calls it once a layer.

    Options read: `graft_packing` (required), `scaling`, `sliding_window`.

    Returns:
        [1, T, H, D], and no attention weights.

    Raises:
        TypeError: no packing was passed; boundaries are never guessed.
        ValueError: the model wants a kind of attention that is not built here.
    """
    packing = options.get("graft_packing")
    if not isinstance(packing, Packing):
        raise TypeError("Packed attention needs the row boundaries: pass graft_packing.")
    _refuse_unknown(module, options)
    query_THD, key_TGD, value_TGD = (
        t.transpose(1, 2).squeeze(0) for t in (query_1HTD, key_1GTD, value_1GTD)
    )
    window, scale = options.get("sliding_window"), options.get("scaling")
    if query_THD.is_cuda and query_THD.dtype in {torch.bfloat16, torch.float16}:
        out_THD = _varlen_attention((query_THD, key_TGD, value_TGD), packing, scale, window)
    else:
        out_THD = _padded_attention((query_THD, key_TGD, value_TGD), packing, scale, window)
    return out_THD.unsqueeze(0), None


def _refuse_unknown(module: nn.Module, options: dict[str, Any]) -> None:
    for name in ("softcap", "s_aux", "position_bias"):
        if options.get(name) is not None:
            raise ValueError(f"{type(module).__name__} wants '{name}', which is not supported.")


def _varlen_attention(
    qkv: tuple[Tensor, Tensor, Tensor], packing: Packing, scale: float | None, window: int | None
) -> Tensor:
    """Flash attention, one call; causal from the lower right, so that pieces see their stems. [T, H, D]."""
    query_THD, key_KGD, value_KGD = qkv
    if packing.keys_at_K is not None:
        key_KGD = key_KGD.index_select(0, packing.keys_at_K)
        value_KGD = value_KGD.index_select(0, packing.keys_at_K)
    return varlen_attn(
        query_THD,
        key_KGD,
        value_KGD,
        packing.boundaries,
        packing.key_boundaries,
        max(piece.length for piece in packing.pieces),
        max(piece.length + piece.shared for piece in packing.pieces),
        scale=scale,
        window_size=(-1 if window is None else window - 1, 0),
        enable_gqa=query_THD.shape[1] != key_KGD.shape[1],
    )


def _padded_attention(
    qkv: tuple[Tensor, Tensor, Tensor], packing: Packing, scale: float | None, window: int | None
) -> Tensor:
    """One call for each group; everything outside attention stays flat. [T, H, D]."""
    # Split and not sliced: the gradient of a slice is a whole sequence of zeros with the slice in it.
    sizes = [group.tokens for group in packing.groups]
    outputs = []
    for at, own in enumerate(zip(*(t.split(sizes) for t in qkv), strict=True)):
        group = packing.groups[at]
        query_SMHD, key_SLGD, value_SLGD = _pad_all(own, qkv[1:], group)
        if group.pairs <= PAIRS_OF_A_SHORT_PIECE and not query_SMHD.is_cuda:
            hidden_ML = _hidden(packing, at, window, query_SMHD)
            factor = query_SMHD.shape[-1] ** -0.5 if scale is None else scale
            out_SMHD = grouped_attention(query_SMHD, key_SLGD, value_SLGD, hidden_ML, factor)
        else:
            hidden = None if group.causal(window) else _hidden(packing, at, window, query_SMHD)
            out_SMHD = _sdpa((query_SMHD, key_SLGD, value_SLGD), hidden, scale)
        out = out_SMHD.flatten(0, 1)
        outputs.append(out if group.dense else out.index_select(0, group.padded_at_N))
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs)


def _sdpa(
    qkv: tuple[Tensor, Tensor, Tensor], hidden_ML: Tensor | None, scale: float | None
) -> Tensor:
    """[S, M, H, D]; plainly causal where nothing is said of who sees whom."""
    query_SHMD, key_SGLD, value_SGLD = (t.transpose(1, 2) for t in qkv)
    out_SHMD = scaled_dot_product_attention(
        query_SHMD,
        key_SGLD,
        value_SGLD,
        attn_mask=hidden_ML,
        is_causal=hidden_ML is None,
        scale=scale,
        enable_gqa=query_SHMD.shape[1] != key_SGLD.shape[1],
    )
    return out_SHMD.transpose(1, 2)


def _hidden(packing: Packing, at: int, window: int | None, like: Tensor) -> Tensor:
    """Of a group: minus infinity where a token does not see a key, else 0 [M, L]. The same in many layers."""
    if (at, window) not in packing.hidden:
        group = packing.groups[at]
        keys = group.shared + group.longest
        query_at_M = torch.arange(group.shared, keys, device=like.device)
        distance_ML = query_at_M[:, None] - torch.arange(keys, device=like.device)[None, :]
        hidden_ML = distance_ML < 0
        if window is not None:
            hidden_ML |= distance_ML >= window
        zeros_ML = like.new_zeros(hidden_ML.shape)
        packing.hidden[at, window] = zeros_ML.masked_fill_(hidden_ML, -torch.inf)
    return packing.hidden[at, window]


def _pad_all(
    own: Sequence[Tensor], flat_kv: Sequence[Tensor], group: PaddedGroup
) -> tuple[Tensor, Tensor, Tensor]:
    """The group's query, and its keys and values with those of its stem, which are in everybody's `flat_kv`."""
    query_SMHD, *kv = (_pad(t, group) for t in own)
    if group.shared:
        kv = [
            torch.cat([_stem(flat, group), t], dim=1) for flat, t in zip(flat_kv, kv, strict=True)
        ]
    return query_SMHD, *kv


def _stem(flat_TGD: Tensor, group: PaddedGroup) -> Tensor:
    """The stem's keys or values for every piece of the group [S, shared, G, D]."""
    stem_PGD = flat_TGD[group.stem : group.stem + group.shared]
    return stem_PGD.expand(group.pieces, -1, -1, -1)


def _pad(own_NHD: Tensor, group: PaddedGroup) -> Tensor:
    """[N, H, D] to [S, M, H, D]. Padding lies after each piece, where causal attention never looks."""
    if not group.dense:
        empty = own_NHD.new_zeros(group.pieces * group.longest, *own_NHD.shape[1:])
        own_NHD = empty.index_copy(0, group.padded_at_N, own_NHD)
    return own_NHD.unflatten(0, (group.pieces, group.longest))


def register() -> None:
    """Make `PACKED` known to transformers. Registering twice is harmless."""
    ALL_ATTENTION_FUNCTIONS.register(PACKED, packed_attention)


@dataclass(frozen=True, slots=True)
class Heard:
    """What a model gave its attention function: [1, H, T, D], twice [1, G, T, D], and options."""

    query_key_value: tuple[Tensor, ...]
    options: dict[str, Any]


@contextmanager
def overheard() -> Iterator[list[Heard]]:
    """Inside, what transformers gives in every call is put down; the model computes what it does."""
    heard: list[Heard] = []

    def listen(module: nn.Module, *tensors: Any, **options: Any) -> tuple[Tensor, None]:
        heard.append(Heard(tensors[:3], options))
        return packed_attention(module, *tensors, **options)

    ALL_ATTENTION_FUNCTIONS.register(PACKED, listen)
    try:
        yield heard
    finally:
        register()
