"""The weights that one job trains: LoRA factors, their gradients and Adam's moments, each one flat buffer.

Flat, because then one norm clips, one pass of AdamW steps and one copy snapshots; the factors are views. All A come
first, then all B, so that each half can have a learning rate of its own (LoRA+). Layers that read the same input
(siblings, see lora.py) have their A stacked, so that one product serves them all.

Shapes: P all parameters, R rank, S stacked ranks of siblings, I inputs and O outputs of a linear layer.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from adapters.errors import NotServable
from adapters.spec import LoraSpec
from trainer.warm.native.layout import PairOfB, pack_factors

#: Outputs and inputs of a linear layer.
LinearShape: TypeAlias = tuple[int, int]
#: Module paths of linear layers that read the same input.
Siblings: TypeAlias = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Member:
    """B of one layer among siblings; of K adapters, where the buffers that it views are a cohort's."""

    #: Which of the siblings it is, counted from 0; they need not all be adapted.
    index: int
    #: Which layer of the model it is; seeds its dropout.
    number: int
    #: Its rows of the stacked A.
    start: int
    stop: int
    #: In the base model's dtype; and the same transposed, since making a view takes as long as a small product.
    b_OR: Tensor
    b_RO: Tensor
    #: In the master dtype; the backward pass adds to it.
    grad_b_OR: Tensor


@dataclass(frozen=True, slots=True)
class Factors:
    """What the adapter does to some siblings: y_m += scale * (x A_m^T) B_m^T. A cohort's have K in front."""

    a_SI: Tensor
    a_IS: Tensor
    grad_a_SI: Tensor
    members: tuple[Member, ...]
    #: Where all this lies, as a kernel reads it (native/layout.py); empty where none can.
    table: bytes = b""

    def apart(self, stacked: Tensor) -> Sequence[Tensor]:
        """What is each member's of [..., S]: [..., R]."""
        if len(self.members) == 1:  # no view to make: a third of the time of a small product
            return (stacked,)
        return stacked.split(self.members[0].stop, -1)


class Adapter:
    """A LoRA adapter under training.

    Args:
        shapes: the layers it adapts, by module path.
        spec: rank, alpha, dropout.
        seed: of the initial A; B starts at zero, so that the adapter starts as the base model.
        device: where the base model lies.
        dtype: the base model's; master weights are float32 at least.
        siblings: groups of the base model's layers; layers in none of them are by themselves.
    """

    def __init__(
        self,
        shapes: Mapping[str, LinearShape],
        spec: LoraSpec,
        *,
        seed: int,
        device: torch.device,
        dtype: torch.dtype,
        siblings: Sequence[Siblings] = (),
    ) -> None:
        self.spec = spec
        self.scale = spec.alpha / (math.sqrt(spec.rank) if spec.rslora else spec.rank)
        self.shapes = dict(shapes)
        #: Equal for adapters whose flat buffers mean the same, and are scaled alike.
        self.form = spec.rank, self.scale, tuple(self.shapes.items())
        self._siblings = _complete(siblings, shapes)
        master = torch.promote_types(dtype, torch.float32)
        self._size_a = sum(spec.rank * inputs for _, inputs in shapes.values())
        size = self._size_a + sum(spec.rank * outputs for outputs, _ in shapes.values())
        self.weights_P = torch.zeros(size, dtype=master, device=device)
        self.gradient_P = torch.zeros_like(self.weights_P)
        self.first_moment_P = torch.zeros_like(self.weights_P)
        self.second_moment_P = torch.zeros_like(self.weights_P)
        self._working_P = self.weights_P if dtype == master else self.weights_P.to(dtype)
        self.factors = self.factors_in(self._working_P, self.gradient_P)
        self._initialise(seed)

    @property
    def tabled(self) -> bool:
        """Whether the factors have tables."""
        return _can_be_read(self._working_P, self.gradient_P)

    @property
    def working_dtype(self) -> torch.dtype:
        """That of the factors in products: the base model's."""
        return self._working_P.dtype

    def move(self, weights_P: Tensor, gradient_P: Tensor, working_P: Tensor) -> None:
        """Live in these buffers from now on. `working_P` is `weights_P` where there is no other dtype to work in."""
        weights_P.copy_(self.weights_P)
        gradient_P.copy_(self.gradient_P)
        self.weights_P, self.gradient_P, self._working_P = weights_P, gradient_P, working_P
        self.factors = self.factors_in(working_P, gradient_P)
        self.weights_changed()

    def halves(self, flat_P: Tensor) -> tuple[Tensor, Tensor]:
        """The part of a flat buffer that belongs to all A, and the one that belongs to all B."""
        return flat_P[: self._size_a], flat_P[self._size_a :]

    def views(self, weights_P: Tensor | None = None) -> dict[str, tuple[Tensor, Tensor]]:
        """A [R, I] and B [O, R] of each layer, in master precision; of these weights, or of its own."""
        return self._views(self.weights_P if weights_P is None else weights_P)

    def weights_changed(self) -> None:
        """Bring the working copy up to date. Call after every write to `weights_P`."""
        if self._working_P is not self.weights_P:
            self._working_P.copy_(self.weights_P)

    def load(self, weights_P: Tensor) -> None:
        """Take over the given weights."""
        self.weights_P.copy_(weights_P)
        self.weights_changed()

    def load_views(self, views: Mapping[str, tuple[Tensor, Tensor]]) -> None:
        """Take over A and B of every layer. Raises KeyError or RuntimeError where names or shapes differ."""
        for name, (a_RI, b_OR) in self.views().items():
            other_a, other_b = views[name]
            if (a_RI.shape, b_OR.shape) != (other_a.shape, other_b.shape):
                raise RuntimeError(f"{name} has factors of other shapes")
            a_RI.copy_(other_a)
            b_OR.copy_(other_b)
        self.weights_changed()

    def factors_in(self, working: Tensor, gradient: Tensor) -> dict[Siblings, Factors]:
        """Views of the factors in flat buffers [P], or of all adapters' in a cohort's [K, P]."""
        rank = self.spec.rank
        numbers = {name: number for number, name in enumerate(self.shapes)}
        weights, gradients = self._views(working), self._views(gradient)
        start, factors = 0, {}
        for group in self._siblings:
            mine = [name for name in group if name in self.shapes]
            inputs = self.shapes[mine[0]][1]
            stacked = slice(start, start + len(mine) * rank * inputs)
            start = stacked.stop
            a_SI = working[..., stacked].unflatten(-1, (-1, inputs))
            grad_a_SI = gradient[..., stacked].unflatten(-1, (-1, inputs))
            members = tuple(
                Member(
                    index=group.index(name),
                    number=numbers[name],
                    start=at * rank,
                    stop=(at + 1) * rank,
                    b_OR=weights[name][1],
                    b_RO=weights[name][1].mT,
                    grad_b_OR=gradients[name][1],
                )
                for at, name in enumerate(mine)
            )
            table = b""
            if _can_be_read(working, gradient):
                table = pack_factors(rank, a_SI, grad_a_SI, _pairs(members, len(group)))
            factors[group] = Factors(a_SI, a_SI.mT, grad_a_SI, members, table)
        return factors

    def _views(self, flat: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        """A and B of each layer in a buffer [..., P]."""
        rank = self.spec.rank
        start_a, start_b, found = 0, self._size_a, {}
        for group in self._siblings:
            for name in (name for name in group if name in self.shapes):
                outputs, inputs = self.shapes[name]
                stop_a, stop_b = start_a + rank * inputs, start_b + rank * outputs
                found[name] = (
                    flat[..., start_a:stop_a].unflatten(-1, (rank, inputs)),
                    flat[..., start_b:stop_b].unflatten(-1, (outputs, rank)),
                )
                start_a, start_b = stop_a, stop_b
        return {name: found[name] for name in self.shapes}

    def _initialise(self, seed: int) -> None:
        """PEFT's default: A kaiming-uniform with a = sqrt(5), which is U(-1/sqrt(I), 1/sqrt(I)); B zero.

        Drawn on the CPU, so that a seed means the same adapter everywhere.
        """
        generator = torch.Generator().manual_seed(seed)
        for a_RI, _ in self.views().values():
            bound = 1 / math.sqrt(a_RI.shape[1])
            drawn_RI = a_RI if a_RI.is_cpu else torch.empty(a_RI.shape, dtype=a_RI.dtype)
            drawn_RI.uniform_(-bound, bound, generator=generator)
            if drawn_RI is not a_RI:
                a_RI.copy_(drawn_RI)
        self.weights_changed()


def _can_be_read(working: Tensor, gradient: Tensor) -> bool:
    """Whether one adapter's buffers are such that a kernel can compute with them."""
    return working.ndim == 1 and working.is_cpu and working.dtype == gradient.dtype


def _pairs(members: Sequence[Member], siblings: int) -> list[PairOfB]:
    """B and its gradient, for each sibling."""
    pairs: list[PairOfB] = [None] * siblings
    for member in members:
        pairs[member.index] = member.b_OR, member.grad_b_OR
    return pairs


def _complete(siblings: Sequence[Siblings], shapes: Mapping[str, LinearShape]) -> list[Siblings]:
    """Every group that has an adapted layer, and a group of one for each layer that is in none."""
    grouped = {name for group in siblings for name in group}
    groups = [group for group in siblings if any(name in shapes for name in group)]
    return [*groups, *((name,) for name in shapes if name not in grouped)]


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
