"""Attention over packed rows: one flat sequence, no token sees another row.

Registered with transformers under `PACKED`, and told the row boundaries explicitly: transformers would otherwise guess
them from restarting positions, and guesses nothing at all once a cache object exists (its default), in which case rows
silently attend across each other. So the model is only ever called with `use_cache=False`, too.

A row may begin with a stem that it shares with others (batch.py): then its own tokens are a piece that sees the stem.

Shapes: T tokens of all pieces, K keys that they see, S pieces of a group, M its longest, H query heads, G key-value
heads, D head size.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.attention.varlen import varlen_attn
from torch.nn.functional import scaled_dot_product_attention
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

PACKED = "graft_packed"

#: Padding worth less than this many tokens costs less than one more SDPA call.
CHEAP_PADDING = 1024


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
    """Pieces of similar length, with the same stem if any, that share one padded SDPA call."""

    pieces: int
    longest: int
    stem: int
    shared: int
    #: Where the group's tokens lie in the flat sequence, and in the padded [pieces * longest] one.
    flat_at_N: Tensor
    padded_at_N: Tensor

    @property
    def dense(self) -> bool:
        """Whether padding is nil, so that reshaping is enough."""
        return self.padded_at_N.numel() == self.pieces * self.longest


@dataclass(frozen=True, slots=True)
class Packing:
    """Who sees whom in one micro-batch, on the device that computes it."""

    pieces: tuple[Piece, ...]
    groups: tuple[PaddedGroup, ...]
    #: Where each flat token lies in the concatenation of the groups.
    order_T: Tensor
    #: int32 [pieces + 1], as flash attention wants them: of the queries, and of the keys in `keys_at_K`.
    boundaries: Tensor
    key_boundaries: Tensor
    #: The keys of each piece, its stem's first; None where no piece has a stem, so that they are the flat sequence.
    keys_at_K: Tensor | None

    @classmethod
    def of(cls, pieces: Sequence[Piece], device: torch.device) -> Self:
        """Lay out pieces that follow each other without a gap."""
        groups = tuple(_lay_out(members, device) for members in group_by_length(pieces))
        order_T = torch.argsort(torch.cat([group.flat_at_N for group in groups]))
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
            order_T,
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
    """Pieces of one stem together, so that padding at most doubles a group; in descending length."""
    groups: list[list[Piece]] = []
    padding = 0
    for piece in sorted(pieces, key=lambda piece: (piece.shared and piece.stem + 1, -piece.length)):
        first = groups[-1][0] if groups else None
        if first is not None and (first.stem, first.shared) == (piece.stem, piece.shared):
            padding += first.length - piece.length
            if 2 * piece.length >= first.length or padding <= CHEAP_PADDING:
                groups[-1].append(piece)
                continue
        groups.append([piece])
        padding = 0
    return groups


def _lay_out(members: list[Piece], device: torch.device) -> PaddedGroup:
    members = sorted(members, key=lambda piece: piece.start)
    longest = max(piece.length for piece in members)
    flat = [torch.arange(piece.start, piece.stop, device=device) for piece in members]
    padded = [
        torch.arange(piece.length, device=device) + at * longest for at, piece in enumerate(members)
    ]
    stem, shared = members[0].stem, members[0].shared
    return PaddedGroup(len(members), longest, stem, shared, torch.cat(flat), torch.cat(padded))


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
    """SDPA, one call for each group of similar lengths; everything outside attention stays flat. [T, H, D]."""
    outputs = [_attend(group, qkv, scale, window) for group in packing.groups]
    if len(outputs) == 1:
        return outputs[0]
    return torch.cat(outputs).index_select(0, packing.order_T)


def _attend(
    group: PaddedGroup,
    qkv: tuple[Tensor, Tensor, Tensor],
    scale: float | None,
    window: int | None,
) -> Tensor:
    query, key, value = (_pad(t, group) for t in qkv)
    if group.shared:
        key, value = (
            torch.cat([_stem(flat, group), t], dim=2)
            for flat, t in zip(qkv[1:], (key, value), strict=True)
        )
    visible = _visible(group, window, query.device)
    out_SHMD = scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=visible,
        is_causal=visible is None,
        scale=scale,
        enable_gqa=query.shape[1] != key.shape[1],
    )
    out = out_SHMD.transpose(1, 2).flatten(0, 1)
    return out if group.dense else out.index_select(0, group.padded_at_N)


def _visible(group: PaddedGroup, window: int | None, device: torch.device) -> Tensor | None:
    """[M, shared + M] where plain causal attention is not all there is to it."""
    keys = group.shared + group.longest
    if not group.shared and (window is None or window >= group.longest):
        return None
    query_at_M = torch.arange(group.shared, keys, device=device)
    distance = query_at_M[:, None] - torch.arange(keys, device=device)[None, :]
    visible = distance >= 0
    return visible if window is None else visible & (distance < window)


def _stem(flat_TGD: Tensor, group: PaddedGroup) -> Tensor:
    """The stem's keys or values for every piece of the group [S, G, shared, D]."""
    stem_PGD = flat_TGD[group.stem : group.stem + group.shared]
    return stem_PGD.transpose(0, 1).expand(group.pieces, -1, -1, -1)


def _pad(flat_THD: Tensor, group: PaddedGroup) -> Tensor:
    """[T, H, D] to [S, H, M, D]. Padding lies after each piece, where causal attention never looks."""
    heads, size = flat_THD.shape[1:]
    mine = flat_THD
    if group.flat_at_N.numel() != flat_THD.shape[0]:
        mine = flat_THD.index_select(0, group.flat_at_N)
    if not group.dense:
        empty = mine.new_zeros(group.pieces * group.longest, heads, size)
        mine = empty.index_copy(0, group.padded_at_N, mine)
    return mine.view(group.pieces, group.longest, heads, size).transpose(1, 2)


def register() -> None:
    """Make `PACKED` known to transformers. Registering twice is harmless."""
    ALL_ATTENTION_FUNCTIONS.register(PACKED, packed_attention)
