"""How the base model's frozen weights are held: as they are, or in four bits.

NF4 with double quantisation, as in QLoRA (Dettmers et al., arXiv:2305.14314), by bitsandbytes: 4-bit values in blocks
of 64, each with a scale that is quantised to 8 bits in turn; 4.13 bits a weight. Nothing is computed in four bits: a
group's weights are made dense again for each product, forward and backward, and let go right after it.

An engine serves the weights as they are, though, so whatever is said of a published adapter has to be computed with
those. They are read from the model's files when they are wanted, one group at a time.

Shapes: I inputs, O outputs of all siblings of a group.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias

import torch
from safetensors import safe_open
from torch import Tensor, nn

from adapters.errors import InvalidValue
from trainer.warm.adapter import Siblings

Quantization: TypeAlias = Literal["none", "nf4"]

#: Weights that share a scale: the paper's.
BLOCK = 64


class FrozenWeight(Protocol):
    """The stacked weights of one group of siblings."""

    @property
    def held_bytes(self) -> int:
        """Memory that they take while nothing is computed."""

    def dense(self) -> Tensor:
        """[O, I], in the dtype that the base model computes in. Read anew for each product, never kept."""


class Keeper(Protocol):
    """Decides how all weights of a base model are held."""

    #: What it is called in a manifest; None where weights are held as they are, which is also how they are served.
    quantization: str | None

    def keep(self, names: Siblings, weight_OI: Tensor) -> FrozenWeight:
        """Take over the weights of a group."""

    def as_served(self) -> AbstractContextManager[None]:
        """Inside, every weight that it keeps is what an engine computes with."""


class Plain(nn.Module):
    """Weights as they are. A parameter, so that whatever moves or divides a model's parameters finds it."""

    def __init__(self, weight_OI: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight_OI, requires_grad=False)

    @property
    def held_bytes(self) -> int:
        """See FrozenWeight."""
        return int(self.weight.nbytes)

    def dense(self) -> Tensor:
        """See FrozenWeight."""
        return self.weight


class AsTheyAre:
    """Keeps weights in the dtype that they are computed in."""

    quantization: str | None = None

    def keep(self, names: Siblings, weight_OI: Tensor) -> Plain:  # noqa: ARG002  see Keeper
        """See Keeper."""
        return Plain(weight_OI)

    def as_served(self) -> AbstractContextManager[None]:
        """They always are."""
        return nullcontext()


class Originals:
    """The weights as the model's files have them, whenever they are wanted.

    The files are mapped into memory, not read ahead: what is held is what the kernel likes to cache.
    """

    def __init__(self, directory: Path, device: torch.device, dtype: torch.dtype) -> None:
        self.device, self.dtype = device, dtype
        self.in_use = False
        files: list[Any] = [
            safe_open(path, "pt") for path in sorted(directory.glob("*.safetensors"))
        ]
        self._file_of = {key: file for file in files for key in file.keys()}  # noqa: SIM118  not a mapping

    def read(self, names: Siblings) -> Tensor:
        """The stacked weights of a group [O, I]. Raises KeyError where the files have none of that name."""
        keys = [f"{name}.weight" for name in names]
        return stack(
            [self._file_of[key].get_tensor(key).to(self.device, self.dtype) for key in keys]
        )


class Nf4:
    """Weights in four bits, except where they are wanted as an engine serves them."""

    def __init__(
        self, bitsandbytes: Any, originals: Originals, names: Siblings, weight_OI: Tensor
    ) -> None:
        self._originals, self._names = originals, names
        self._dequantize = bitsandbytes.dequantize_4bit
        self._shape = weight_OI.shape
        self._packed, self._state = bitsandbytes.quantize_4bit(
            _in_blocks(weight_OI), blocksize=BLOCK, compress_statistics=True, quant_type="nf4"
        )

    @property
    def held_bytes(self) -> int:
        """The 4-bit values, the 8-bit scales and the scales of those."""
        parts = (self._packed, self._state.absmax, self._state.state2.absmax)
        return sum(int(part.nbytes) for part in parts)

    def dense(self) -> Tensor:
        """See FrozenWeight."""
        if self._originals.in_use:
            return self._originals.read(self._names)
        weight: Tensor = self._dequantize(self._packed, self._state)
        return weight.view(self._shape)


class InNf4:
    """Keeps weights in four bits.

    Args:
        directory: the prepared base model, which must stay: what is served is read from it.
        device: where to hold them and compute.
        dtype: what to compute in.

    Raises:
        InvalidValue: bitsandbytes is missing.
    """

    quantization: str | None = "nf4"

    def __init__(self, directory: Path, device: torch.device, dtype: torch.dtype) -> None:
        self._bitsandbytes = _bitsandbytes()
        self._originals = Originals(directory, device, dtype)

    def keep(self, names: Siblings, weight_OI: Tensor) -> Nf4:
        """Quantise a group, on the device. On a CPU this takes seconds for each hundred million weights.

        Raises:
            InvalidValue: the model's files hold other weights under these names, so that nobody could tell what an
                engine will compute.
        """
        weight_OI = weight_OI.to(self._originals.device)
        try:
            found = torch.equal(self._originals.read(names), weight_OI)
        except KeyError:
            found = False
        if not found:
            raise InvalidValue(
                f"trainer.quantization: the base model's files do not hold the weights of {names[0]} under that name, "
                "so an adapter cannot be measured on them as served. Train it with quantization: none.",
                param="trainer.quantization",
            )
        return Nf4(self._bitsandbytes, self._originals, names, weight_OI)

    @contextmanager
    def as_served(self) -> Iterator[None]:
        """See Keeper. Reads the whole model once a pass: from the disk, or where it is cached from memory."""
        before, self._originals.in_use = self._originals.in_use, True
        try:
            yield
        finally:
            self._originals.in_use = before


def keeper_for(
    quantization: Quantization, directory: Path, device: torch.device, dtype: torch.dtype
) -> Keeper:
    """The one that was asked for. Raises InvalidValue where it cannot work here."""
    match quantization:
        case "none":
            return AsTheyAre()
        case "nf4":
            return InNf4(directory, device, dtype)


def _in_blocks(weight_OI: Tensor) -> Tensor:
    """The same numbers in the same order, a block a row where there are whole blocks only.

    On processors with AVX-512, bitsandbytes 0.50.2 takes a row's scales from the wrong blocks where a row is no whole
    number of blocks: weights were off by a quarter and more (test_quantised.py computes them by hand).
    """
    whole = weight_OI.numel() % BLOCK == 0
    return weight_OI.reshape(-1, BLOCK) if whole else weight_OI.reshape(-1)


def stack(tensors: Sequence[Tensor]) -> Tensor:
    """Weights of siblings, one below the other."""
    return tensors[0].detach() if len(tensors) == 1 else torch.cat([t.detach() for t in tensors])


def _bitsandbytes() -> Any:
    """Imported only where it is wanted: that takes seconds."""
    try:
        from bitsandbytes import functional  # noqa: PLC0415
    except ImportError as error:
        raise InvalidValue(
            f"trainer.quantization: nf4 needs the package bitsandbytes, which cannot be imported ({error}). "
            "`make install` brings it, and so does `pip install bitsandbytes`.",
            param="trainer.quantization",
        ) from error
    return functional
