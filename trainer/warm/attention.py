"""Attention over packed rows: one flat sequence, no token sees another row.

Registered with transformers under `PACKED`, and told the row boundaries explicitly: transformers would otherwise guess
them from restarting positions, and guesses nothing at all once a cache object exists (its default), in which case rows
silently attend across each other. So the model is only ever called with `use_cache=False`, too.

Shapes: T tokens of all rows, S rows, M longest row of a group, H query heads, G key-value heads, D head size.
"""

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
class PaddedGroup:
    """Rows of similar length that share one padded SDPA call."""

    rows: int
    longest: int
    #: Where the group's tokens lie in the flat sequence, and in the padded [rows * longest] one.
    flat_at_N: Tensor
    padded_at_N: Tensor

    @property
    def dense(self) -> bool:
        """Whether padding is nil, so that reshaping is enough."""
        return self.padded_at_N.numel() == self.rows * self.longest


@dataclass(frozen=True, slots=True)
class Packing:
    """The row boundaries of one micro-batch, on the device that computes it."""

    lengths: tuple[int, ...]
    #: int32 [S + 1], as flash attention wants it.
    boundaries: Tensor
    groups: tuple[PaddedGroup, ...]
    #: Where each flat token lies in the concatenation of the groups.
    order_T: Tensor

    @classmethod
    def of(cls, lengths: Sequence[int], device: torch.device) -> Self:
        """Lay out rows of these lengths, in this order."""
        starts = [0]
        for length in lengths:
            starts.append(starts[-1] + length)
        groups = tuple(
            _lay_out(members, lengths, starts, device) for members in group_by_length(lengths)
        )
        order_T = torch.argsort(torch.cat([group.flat_at_N for group in groups]))
        boundaries = torch.tensor(starts, dtype=torch.int32, device=device)
        return cls(tuple(lengths), boundaries, groups, order_T)


def group_by_length(lengths: Sequence[int]) -> list[list[int]]:
    """Indices of the rows, grouped so that padding at most doubles a group, in descending length."""
    groups: list[list[int]] = []
    padding = 0
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        longest = lengths[groups[-1][0]] if groups else 0
        padding += longest - lengths[row]
        if not groups or (2 * lengths[row] < longest and padding > CHEAP_PADDING):
            groups.append([])
            padding = 0
        groups[-1].append(row)
    return groups


def _lay_out(
    members: list[int], lengths: Sequence[int], starts: Sequence[int], device: torch.device
) -> PaddedGroup:
    members = sorted(members)
    longest = max(lengths[row] for row in members)
    flat = [torch.arange(starts[row], starts[row + 1], device=device) for row in members]
    padded = [
        torch.arange(lengths[row], device=device) + at * longest for at, row in enumerate(members)
    ]
    return PaddedGroup(len(members), longest, torch.cat(flat), torch.cat(padded))


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
        longest = max(packing.lengths)
        out_THD = varlen_attn(
            query_THD,
            key_TGD,
            value_TGD,
            packing.boundaries,
            packing.boundaries,
            longest,
            longest,
            scale=scale,
            window_size=(-1 if window is None else window - 1, 0),
            enable_gqa=query_THD.shape[1] != key_TGD.shape[1],
        )
    else:
        out_THD = _padded_attention((query_THD, key_TGD, value_TGD), packing, scale, window)
    return out_THD.unsqueeze(0), None


def _refuse_unknown(module: nn.Module, options: dict[str, Any]) -> None:
    for name in ("softcap", "s_aux", "position_bias"):
        if options.get(name) is not None:
            raise ValueError(f"{type(module).__name__} wants '{name}', which is not supported.")


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
    visible_MM = None
    if window is not None and window < group.longest:
        at_M = torch.arange(group.longest, device=query.device)
        distance_MM = at_M[:, None] - at_M[None, :]
        visible_MM = (distance_MM >= 0) & (distance_MM < window)
    out_SHMD = scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=visible_MM,
        is_causal=visible_MM is None,
        scale=scale,
        enable_gqa=query.shape[1] != key.shape[1],
    )
    out = out_SHMD.transpose(1, 2).flatten(0, 1)
    return out if group.dense else out.index_select(0, group.padded_at_N)


def _pad(flat_THD: Tensor, group: PaddedGroup) -> Tensor:
    """[T, H, D] to [S, H, M, D]. Padding lies after each row, where causal attention never looks."""
    heads, size = flat_THD.shape[1:]
    mine = flat_THD
    if group.flat_at_N.numel() != flat_THD.shape[0]:
        mine = flat_THD.index_select(0, group.flat_at_N)
    if not group.dense:
        empty = mine.new_zeros(group.rows * group.longest, heads, size)
        mine = empty.index_copy(0, group.padded_at_N, mine)
    return mine.view(group.rows, group.longest, heads, size).transpose(1, 2)


def register() -> None:
    """Make `PACKED` known to transformers. Registering twice is harmless."""
    ALL_ATTENTION_FUNCTIONS.register(PACKED, packed_attention)
