"""The last layer's feed-forward part, computed for the tokens that somebody looks at.

What it makes of a token goes nowhere but to that token's final hidden state, and of those only the ones that predict a
target are looked at. So in the last layer nothing else needs to be fed forward, neither there nor back. Attention needs
all tokens, as keys and values.

Shapes: T tokens, M of them that are looked at, D hidden size.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from trainer.warm.lora import Routing
from trainer.warm.plan import Segment

#: What it is called in the models that transformers knows.
NAMES = ("mlp", "feed_forward")
#: Where nearly all tokens are looked at, picking them out costs what it saves.
MOST_LOOKED_AT = 0.9


@dataclass(frozen=True, slots=True)
class Narrow:
    """The tokens of a pass that are looked at, and whose they are."""

    #: Each once, in order.
    at_M: Tensor
    #: Of those tokens alone.
    segments: tuple[Segment, ...]

    @classmethod
    def of(cls, predicts_N: Tensor, segments: Sequence[Segment], tokens: int) -> "Narrow | None":
        """None where all tokens are better computed. Takes and makes tensors on the CPU."""
        # Two rows with a stem in common may predict from the same token.
        at_M = predicts_N.unique()
        if not 0 < at_M.numel() <= MOST_LOOKED_AT * tokens:
            return None
        if any(one.adapter.spec.dropout for one in segments):
            return None  # masks are drawn for whole rows
        edges = [edge for one in segments for edge in (one.start, one.stop)]
        bounds = torch.searchsorted(at_M, torch.tensor(edges, dtype=at_M.dtype)).tolist()
        spans = zip(segments, bounds[::2], bounds[1::2], strict=True)
        return cls(
            at_M,
            tuple(
                replace(one, start=start, stop=stop, rows=())
                for one, start, stop in spans
                if start < stop
            ),
        )


class LastFeedForward:
    """Stands before the feed-forward part of a decoder's last layer. One for each base model.

    Args:
        decoder: whose last layer is meant. One without a part of a known name is computed as it is.
        routing: that of its linear layers.
    """

    def __init__(self, decoder: nn.Module, routing: Routing) -> None:
        self._routing = routing
        self._narrow: Narrow | None = None
        self._part = _find(decoder)
        if self._part is not None:
            self._whole = self._part.forward
            # Not a module around it, which would change the names of what is inside.
            self._part.forward = partial(self._forward, self._whole)

    def give_up(self) -> None:
        """From now on, compute all tokens."""
        if self._part is not None:
            self._part.forward = self._whole
            self._part = None

    @contextmanager
    def only(self, narrow: Narrow | None) -> Iterator[None]:
        """Inside, hidden states of other tokens than these are meaningless."""
        before, self._narrow = self._narrow, narrow
        try:
            yield
        finally:
            self._narrow = before

    def _forward(self, inner: Any, x: Tensor) -> Tensor:
        """[1, T, D] to [1, T, D]."""
        narrow = self._narrow
        if narrow is None:
            y: Tensor = inner(x)
            return y
        x_TD = x[0]
        with self._routing.to(narrow.segments, narrow.at_M.numel()):
            y_MD = inner(x_TD.index_select(0, narrow.at_M)[None])[0]
        return torch.zeros_like(x_TD).index_copy(0, narrow.at_M, y_MD)[None]


def _find(decoder: nn.Module) -> Any:
    layers = [one for one in decoder.modules() if isinstance(one, GradientCheckpointingLayer)]
    found = (getattr(layers[-1], name, None) for name in NAMES) if layers else ()
    return next((part for part in found if isinstance(part, nn.Module)), None)
