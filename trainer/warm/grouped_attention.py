"""Attention of short pieces on a CPU by plain batched products, which keep the softmax for the backward pass.

A CPU's flash kernel computes scores twice and is slow to start: for pieces of up to some 180 tokens this is 1.1 to 1.5
times as fast (bench/LOG.md), and remembers H x M x L numbers for each piece. Query heads that share a key head are
stacked, so that no key is copied.

Shapes: S pieces, M tokens of one, L keys that it sees, H query heads, G key heads, Q = H / G, D head size.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def grouped_attention(
    query_SMHD: Tensor,
    key_SLGD: Tensor,
    value_SLGD: Tensor,
    hidden_ML: Tensor,
    scale: float,
) -> Tensor:
    """[S, M, H, D]. `hidden_ML`: minus infinity where a token does not see a key, else 0."""
    attended: Tensor = GroupedAttention.apply(query_SMHD, key_SLGD, value_SLGD, hidden_ML, scale)
    return attended


class GroupedAttention(torch.autograd.Function):
    """softmax(scale Q K^T + hidden) V, with its gradients."""

    @staticmethod
    def forward(
        ctx: Any,
        query_SMHD: Tensor,
        key_SLGD: Tensor,
        value_SLGD: Tensor,
        hidden_ML: Tensor,
        scale: float,
    ) -> Tensor:
        """See `grouped_attention`."""
        stacked = query_SMHD.shape[2] // key_SLGD.shape[2]
        query, key, value = _by_head(query_SMHD, stacked), _by_head(key_SLGD), _by_head(value_SLGD)
        scores = torch.baddbmm(hidden_ML.repeat(stacked, 1), query, key.mT, alpha=scale)
        chances = torch.softmax(scores, -1)
        ctx.save_for_backward(query, key, value, chances)
        ctx.shape, ctx.scale = query_SMHD.shape, scale
        return _by_token(torch.bmm(chances, value), query_SMHD.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout_SMHD: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        """As in FlashAttention-2 (arXiv:2307.08691), section 2.2, without its tiles."""
        query, key, value, chances = ctx.saved_tensors
        pieces, _, heads, size = ctx.shape
        groups, keys = key.shape[0] // pieces, key.shape[1]
        dout = _by_head(dout_SMHD, heads // groups)
        dchances = torch.bmm(dout, value.mT)
        # What autograd calls for softmax: one pass instead of three.
        dscores = torch._softmax_backward_data(dchances, chances, -1, chances.dtype)  # noqa: SLF001
        dquery = torch.bmm(dscores, key).mul_(ctx.scale)
        dkey = torch.bmm(dscores.mT, query).mul_(ctx.scale)
        dvalue = torch.bmm(chances.mT, dout)
        shape = torch.Size((pieces, keys, groups, size))
        return (
            _by_token(dquery, ctx.shape),
            _by_token(dkey, shape),
            _by_token(dvalue, shape),
            None,
            None,
        )


def _by_head(tokens_SMHD: Tensor, stacked: int = 1) -> Tensor:
    """[S, M, H, D] to [S * H / stacked, stacked * M, D]."""
    pieces, length, heads, size = tokens_SMHD.shape
    split = tokens_SMHD.view(pieces, length, heads // stacked, stacked, size)
    return split.permute(0, 2, 3, 1, 4).reshape(-1, stacked * length, size)


def _by_token(heads: Tensor, shape: torch.Size) -> Tensor:
    """The inverse, to [S, M, H, D]."""
    pieces, length, total, size = shape
    groups = heads.shape[0] // pieces
    split = heads.view(pieces, groups, total // groups, length, size)
    return split.permute(0, 3, 1, 2, 4).reshape(shape)
