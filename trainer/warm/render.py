"""Rendered rows as training takes them: `adapters.datasets.rendering`, in tensors."""

from typing import Any, Protocol

import torch

from adapters.datasets import rendering
from adapters.datasets.examples import Comparison, Example
from adapters.datasets.rendering import RenderedRow
from trainer.warm.rows import Row


class Speaker(Protocol):
    """What is needed of a base model to put examples into its words."""

    tokenizer: Any
    stop_tokens: frozenset[int]


class Renderer:
    """Turns examples into rows for one base model."""

    def __init__(self, base: Speaker) -> None:
        self._renderer = rendering.Renderer(base.tokenizer, base.stop_tokens)

    def rows(self, example: Example) -> list[Row]:
        """The example's rows; at least one, each with at least one target token. Raises InvalidDataset."""
        return [_row(rendered) for rendered in self._renderer.rows(example)]

    def pair(self, comparison: Comparison) -> tuple[Row, Row]:
        """Chosen and rejected, in this order. Raises InvalidDataset."""
        chosen, rejected = self._renderer.pair(comparison)
        return _row(chosen), _row(rejected)


def _row(rendered: RenderedRow) -> Row:
    return Row(torch.tensor(rendered.tokens), torch.tensor(rendered.weights))
