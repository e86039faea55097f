"""Adapters that nobody trained: small random numbers, so that each answers in its own way. One seed, one adapter."""

import random
from array import array
from collections.abc import Mapping
from dataclasses import dataclass

from tests.support.peft_adapters import Adapter, Stored, good_adapter

RANK = 4
#: Every third block is enough to be heard, and quick to make.
_EVERY = 3
_ADAPTED = ("self_attn.v_proj", "mlp.down_proj")


@dataclass
class Drawn(Stored):
    """A tensor of numbers between -value and value."""

    seed: str = ""

    def data(self) -> bytes:
        dice = random.Random(self.seed)
        rows, columns = self.shape
        return array(
            "f", (dice.uniform(-self.value, self.value) for _ in range(rows * columns))
        ).tobytes()


def drawn_adapter(
    seed: str, layers: Mapping[str, tuple[int, int]], *, base_model: str, loudness: float
) -> Adapter:
    """An adapter of a base model with these layers. The louder, the less its answers are those of the base model."""
    adapted = {
        name: shape
        for name, shape in layers.items()
        if name.endswith(_ADAPTED) and _block(name) % _EVERY == 0
    }
    adapter = good_adapter(rank=RANK, layers=adapted, base_model=base_model)
    for name, tensor in adapter.tensors.items():
        value = loudness if ".lora_B." in name else tensor.shape[1] ** -0.5
        adapter.tensors[name] = Drawn(tensor.shape, value=value, seed=f"{seed}/{name}")
    return adapter


def _block(name: str) -> int:
    return next(int(part) for part in name.split(".") if part.isdecimal())
