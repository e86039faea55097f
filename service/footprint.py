"""How large a base model and an adapter for it are, by what the headers of the weights' own files say.

A safetensors file begins with the length of its header, then the header as JSON: name, type and shape of each tensor
(https://huggingface.co/docs/safetensors). So that no weight is read, and nothing that knows models is loaded.
"""

import json
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from adapters.spec import LoraSpec

_LENGTH_BYTES = 8
#: What the format allows.
_LONGEST_HEADER = 100_000_000
_METADATA = "__metadata__"
#: Weights, gradients and Adam's two moments, each in float32.
_BYTES_PER_PARAMETER = 4 * 4
#: A number that the forward pass keeps for the backward pass.
_BYTES_KEPT = 4


@dataclass(frozen=True, slots=True)
class Linear:
    """A linear layer inside the decoder."""

    name: str
    inputs: int
    outputs: int


@dataclass(frozen=True, slots=True)
class Footprint:
    """The size of a base model."""

    parameters: int
    bytes: int
    linears: tuple[Linear, ...]

    def adapter_parameters(self, lora: LoraSpec) -> int:
        """Of a LoRA of that shape: rank times inputs and outputs of each layer that it adapts."""
        return sum(
            lora.rank * (one.inputs + one.outputs)
            for one in self.linears
            if lora.target_modules == "all-linear" or one.name in lora.target_modules
        )

    def adapter_bytes(self, lora: LoraSpec) -> int:
        """What training it keeps: weights, gradients, two moments."""
        return self.adapter_parameters(lora) * _BYTES_PER_PARAMETER

    def activation_bytes(self, tokens: int) -> int:
        """What a micro-batch of so many tokens keeps for its backward pass, about: inputs and outputs of each layer."""
        return tokens * _BYTES_KEPT * sum(one.inputs + one.outputs for one in self.linears)


def read_footprint(directory: Path, linear_modules: Iterable[str]) -> Footprint | None:
    """The size of the model in a directory; None where no file has weights under the names that the card knows.

    `linear_modules` are the names of the linear layers inside the decoder, as on the model's card.
    """
    known = set(linear_modules)
    parameters = total = 0
    linears = []
    for file in sorted(directory.glob("*.safetensors")):
        for name, tensor in _tensors(file):
            shape = tensor["shape"]
            start, stop = tensor["data_offsets"]
            parameters, total = parameters + prod(shape), total + stop - start
            layer = name.removesuffix(".weight").rpartition(".")[2]
            if layer in known and name.endswith(".weight") and len(shape) == 2:  # noqa: PLR2004  a matrix
                linears.append(Linear(layer, inputs=shape[1], outputs=shape[0]))
    return Footprint(parameters, total, tuple(linears)) if linears else None


def available_memory(meminfo: Path = Path("/proc/meminfo")) -> int | None:
    """Bytes of memory that this machine could still give; None where the kernel does not say."""
    try:
        lines = meminfo.read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        name, _, value = line.partition(":")
        if name == "MemAvailable":
            return int(value.split()[0]) * 1024
    return None


def _tensors(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Name and description of each. Nothing, where it is no safetensors file: whoever trains will say so."""
    with file.open("rb") as stream:
        head = stream.read(_LENGTH_BYTES)
        length = struct.unpack("<Q", head)[0] if len(head) == _LENGTH_BYTES else 0
        if not 0 < length <= _LONGEST_HEADER:
            return
        try:
            header = json.loads(stream.read(length))
        except ValueError:
            return
    yield from ((name, told) for name, told in header.items() if name != _METADATA)
