"""Which tensors a safetensors file has, and whether their numbers are numbers. No weight is ever held whole.

The format (https://huggingface.co/docs/safetensors): the header's length as a little-endian 64-bit number, the header
as JSON, then the tensors, one right after the other.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adapters.peft.flaws import Findings, Flaw, refusal
from adapters.peft.strict import parse

_LENGTH = 8
#: An adapter of a model with a thousand layers needs half a megabyte; the format itself would allow 100 MB.
_LONGEST_HEADER = 16 << 20
_METADATA = "__metadata__"
_CHUNK = 1 << 20
#: What engines take, with the bytes of one number.
DTYPES = {"F32": 4, "F16": 2, "BF16": 2}
_MOST_DIMENSIONS = 8
_MOST_TENSORS, _LONGEST_NAME = 200_000, 512
#: Of the byte with sign and exponent: what it is where a number is no number, infinite, or as good as that.
_NOT_FINITE = {
    "F32": bytes([0x7F, 0xFF]),  # also what is above 1.7e38
    "BF16": bytes([0x7F, 0xFF]),  # the same
    "F16": bytes([*range(0x7C, 0x80), *range(0xFC, 0x100)]),
}


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor, and where in the file it lies."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


def read_tensors(path: Path) -> list[Tensor]:
    """What the header says, in the order of the file.

    Raises:
        InvalidAdapter: it is no safetensors file, or not a whole one; or tensors overlap, leave gaps, or have a dtype
            that engines do not take.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(_LENGTH), "little")
        if size < _LENGTH or length > size - _LENGTH or length > _LONGEST_HEADER:
            raise _truncated(size, length)
        raw = file.read(length)
    try:
        header = parse(raw)
    except ValueError as error:
        raise _unreadable(f"its header is not JSON: {error}") from error
    if not raw.startswith(b"{"):
        raise _unreadable("its header begins with something else")
    _check_metadata(header.pop(_METADATA, {}))
    if len(header) > _MOST_TENSORS or any(len(name) > _LONGEST_NAME for name in header):
        raise _unreadable("it has too many tensors, or too long names")
    data = _LENGTH + length
    tensors = [_tensor(name, told, data) for name, told in header.items()]
    _check_order(tensors := sorted(tensors, key=lambda one: (one.start, one.stop)), data, size)
    _check_types(tensors)
    return tensors


def is_finite(path: Path, tensor: Tensor) -> bool:
    """Whether every number is one, and far enough from infinity to compute with."""
    bad, width = _NOT_FINITE[tensor.dtype], DTYPES[tensor.dtype]
    tops = (chunk[width - 1 :: width] for chunk in _chunks(path, tensor))
    # Bytes are counted, not numbers: no loop in Python, a gigabyte in about a second.
    return all(len(top.translate(None, bad)) == len(top) for top in tops)


def is_zero(path: Path, tensor: Tensor) -> bool:
    """Whether every number is nought, or minus nought."""
    width = DTYPES[tensor.dtype]
    for chunk in _chunks(path, tensor):
        top = chunk[width - 1 :: width]
        others = len(chunk) - chunk.count(0) - (len(top) - top.count(0))
        if others or top.translate(None, b"\0\x80"):
            return False
    return True


def _chunks(path: Path, tensor: Tensor) -> Iterator[bytes]:
    with path.open("rb") as file:
        file.seek(tensor.start)
        left = tensor.stop - tensor.start
        while left and (chunk := file.read(min(left, _CHUNK))):
            left -= len(chunk)
            yield chunk


def _tensor(name: str, told: Any, data: int) -> Tensor:
    if not isinstance(told, dict) or told.keys() != {"dtype", "shape", "data_offsets"}:
        raise _unreadable(f"{name!r:.200} is not described as the format has it")
    dtype, shape, offsets = told["dtype"], told["shape"], told["data_offsets"]
    described = isinstance(dtype, str) and _sizes(shape) and _sizes(offsets)
    if not described or len(offsets) != 2 or len(shape) > _MOST_DIMENSIONS:  # noqa: PLR2004  where it begins and ends
        raise _unreadable(f"{name!r:.200} is not described as the format has it")
    return Tensor(name, dtype, tuple(shape), data + offsets[0], data + offsets[1])


def _sizes(values: Any) -> bool:
    return isinstance(values, list) and all(type(one) is int and one >= 0 for one in values)


def _check_metadata(metadata: Any) -> None:
    if not isinstance(metadata, dict) or not all(isinstance(one, str) for one in metadata.values()):
        raise _unreadable("its metadata is not text")


def _check_order(tensors: list[Tensor], data: int, size: int) -> None:
    at = data
    for one in tensors:
        if one.stop < one.start:
            raise refusal(
                Flaw.OFFSETS_INVALID,
                f"{one.name!r:.200} ends at byte {one.stop}, before it begins at {one.start}. Save the adapter again.",
            )
        if one.start != at:
            raise refusal(
                Flaw.OFFSETS_INVALID,
                f"{one.name!r:.200} begins at byte {one.start}, where the tensor before it ends at {at}: tensors must "
                "follow each other without gaps. Save the adapter again.",
            )
        at = one.stop
    if at > size:
        raise _truncated(size, at)
    if at < size:
        raise refusal(
            Flaw.OFFSETS_INVALID,
            f"The weights have {size - at} bytes that belong to no tensor. Save the adapter again.",
        )


def _check_types(tensors: list[Tensor]) -> None:
    findings = Findings()
    for one in tensors:
        width = DTYPES.get(one.dtype)
        if width is None:
            findings.add(
                Flaw.DTYPE,
                f"{one.name!r:.200} is {one.dtype!r:.40}; engines take {', '.join(DTYPES)}. Convert the adapter.",
            )
        elif math.prod(one.shape) * width != one.stop - one.start:
            findings.add(
                Flaw.OFFSETS_INVALID,
                f"{one.name!r:.200} has {one.stop - one.start} bytes, which is not what its shape "
                f"{list(one.shape)} comes to. Save the adapter again.",
            )
    findings.settle()


def _unreadable(why: str) -> Exception:
    return refusal(
        Flaw.WEIGHTS_UNREADABLE,
        f"The weights are no safetensors file: {why}. Save the adapter again.",
    )


def _truncated(size: int, needed: int) -> Exception:
    return refusal(
        Flaw.WEIGHTS_TRUNCATED,
        f"The weights are cut short, or no safetensors file: {size} bytes are there where the header speaks of "
        f"{needed}. Send the whole file.",
    )
