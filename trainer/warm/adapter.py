"""The weights that one job trains: LoRA factors, their gradients and Adam's moments, each one flat buffer.

Flat, because then one norm clips, one pass of AdamW steps and one copy snapshots; the factors are views.

Shapes: P all parameters, R rank, I inputs and O outputs of a linear layer.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from adapters.errors import NotServable
from adapters.records import LoraSpec

#: Outputs and inputs of a linear layer.
LinearShape: TypeAlias = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Factors:
    """One layer's share of the adapter: y += scale * (x A^T) B^T."""

    #: In the base model's dtype, for the forward and backward pass.
    a_RI: Tensor
    b_OR: Tensor
    #: In the master dtype; the backward pass adds to them.
    grad_a_RI: Tensor
    grad_b_OR: Tensor
    #: Which layer this is, counted from 0; seeds its dropout.
    number: int


class Adapter:
    """A LoRA adapter under training.

    Args:
        shapes: the layers it adapts, by module path.
        spec: rank, alpha, dropout.
        seed: of the initial A; B starts at zero, so that the adapter starts as the base model.
        device: where the base model lies.
        dtype: the base model's; master weights are float32 at least.
    """

    def __init__(
        self,
        shapes: Mapping[str, LinearShape],
        spec: LoraSpec,
        *,
        seed: int,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self.spec = spec
        self.scale = spec.alpha / spec.rank
        self.shapes = dict(shapes)
        master = torch.promote_types(dtype, torch.float32)
        size = sum(spec.rank * (outputs + inputs) for outputs, inputs in shapes.values())
        self.weights_P = torch.zeros(size, dtype=master, device=device)
        self.gradient_P = torch.zeros_like(self.weights_P)
        self.first_moment_P = torch.zeros_like(self.weights_P)
        self.second_moment_P = torch.zeros_like(self.weights_P)
        self._working_P = self.weights_P if dtype == master else self.weights_P.to(dtype)
        working, gradient = self._views(self._working_P), self._views(self.gradient_P)
        self.factors = {
            name: Factors(*working[name], *gradient[name], number)
            for number, name in enumerate(shapes)
        }
        self._initialise(seed)

    def views(self) -> dict[str, tuple[Tensor, Tensor]]:
        """A [R, I] and B [O, R] of each layer, in master precision."""
        return self._views(self.weights_P)

    def weights_changed(self) -> None:
        """Bring the working copy up to date. Call after every write to `weights_P`."""
        if self._working_P is not self.weights_P:
            self._working_P.copy_(self.weights_P)

    def load(self, weights_P: Tensor) -> None:
        """Take over the given weights."""
        self.weights_P.copy_(weights_P)
        self.weights_changed()

    def _views(self, flat_P: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        rank, start, views = self.spec.rank, 0, {}
        for name, (outputs, inputs) in self.shapes.items():
            middle, stop = start + rank * inputs, start + rank * (inputs + outputs)
            views[name] = (
                flat_P[start:middle].view(rank, inputs),
                flat_P[middle:stop].view(outputs, rank),
            )
            start = stop
        return views

    def _initialise(self, seed: int) -> None:
        """PEFT's default: A kaiming-uniform with a = sqrt(5), which is U(-1/sqrt(I), 1/sqrt(I)); B zero.

        Drawn on the CPU, so that a seed means the same adapter everywhere.
        """
        generator = torch.Generator().manual_seed(seed)
        for a_RI, _ in self.views().values():
            bound = 1 / math.sqrt(a_RI.shape[1])
            drawn_RI = torch.empty(a_RI.shape, dtype=a_RI.dtype)
            a_RI.copy_(drawn_RI.uniform_(-bound, bound, generator=generator))
        self.weights_changed()


def choose_layers(
    targets: str | Iterable[str], linears: Mapping[str, LinearShape]
) -> dict[str, LinearShape]:
    """The layers that `target_modules` means. A target is a module path or the end of one, as in PEFT.

    Raises:
        NotServable: a target matches no linear layer of the decoder, so that it would silently train nothing.
    """
    if targets == "all-linear":
        return dict(linears)
    wanted = tuple(targets)
    for target in wanted:
        if not any(_matches(name, target) for name in linears):
            known = ", ".join(suffixes(linears))
            raise NotServable(
                f"target_modules: '{target}' is not a linear layer of this base model. Known: {known}.",
                param="target_modules",
            )
    return {
        name: shape
        for name, shape in linears.items()
        if any(_matches(name, target) for target in wanted)
    }


def _matches(name: str, target: str) -> bool:
    return name == target or name.endswith(f".{target}")


def suffixes(linears: Iterable[str]) -> tuple[str, ...]:
    """The last components of module paths, each once, in order of appearance."""
    return tuple(dict.fromkeys(name.rpartition(".")[2] for name in linears))
