"""The kernels as functions, on the threads that torch computes with.

A second set of threads would wait for work beside torch's, on the same cores. So the kernels bring none: they ask the
OpenMP library that torch is linked with to run their tasks, whichever that is.

Shapes: T tokens, I inputs, O outputs.
"""

import ctypes
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trainer.warm.native.build import build
from trainer.warm.native.layout import pack_dense

log = logging.getLogger(__name__)

#: What is compiled, with what it includes from beside it.
SOURCES = tuple(Path(__file__).with_name(name) for name in ("lowrank.c", "dense.c"))
#: Of what numbers there are products.
DTYPES = {torch.float32: "float32", torch.float64: "float64"}
#: Runs a function on several threads, this one among them. GCC's name for it; LLVM's and Intel's libraries have it too.
PARALLEL = "GOMP_parallel"


class Lowrank:
    """The low-rank products of all jobs of a pass. The tables are what layout.py packs."""

    def __init__(self, library: Any, parallel: int) -> None:
        self._parallel = parallel
        self._forward = _functions(library, "lowrank_forward", tables=3)
        self._backward = _functions(library, "lowrank_backward", tables=3)

    def forward(self, dtype: torch.dtype, *tables: bytes) -> None:
        """h, and what it adds to y."""
        self._forward[dtype](self._parallel, torch.get_num_threads(), *tables)

    def backward(self, dtype: torch.dtype, *tables: bytes) -> None:
        """What is added to dx, where it is wanted, to dA and to dB."""
        self._backward[dtype](self._parallel, torch.get_num_threads(), *tables)


class Dense:
    """Products with frozen weights, of numbers that there are products of, whose rows have no gaps within."""

    def __init__(self, library: Any, parallel: int) -> None:
        self._parallel = parallel
        self._forward = _functions(library, "dense_forward", tables=1)
        self._backward = _functions(library, "dense_backward", tables=1)
        #: Whether this processor is one on which they were measured to be faster than torch's.
        self.pays = bool(library.dense_pays())

    def linear(self, x_TI: Tensor, weight_OI: Tensor) -> Tensor:
        """[T, I] to [T, O]."""
        y_TO = x_TI.new_empty(len(x_TI), len(weight_OI))
        call = pack_dense(x_TI, weight_OI, y_TO)
        self._forward[x_TI.dtype](self._parallel, torch.get_num_threads(), call)
        return y_TO

    def linear_backward(self, dy_TO: Tensor, weight_OI: Tensor) -> Tensor:
        """The gradient of x, [T, O] to [T, I]."""
        dx_TI = dy_TO.new_empty(len(dy_TO), weight_OI.shape[1])
        call = pack_dense(dy_TO, weight_OI, dx_TI)
        self._backward[dy_TO.dtype](self._parallel, torch.get_num_threads(), call)
        return dx_TI


@dataclass(frozen=True, slots=True)
class Kernels:
    """Those that there are, and that pay. Without one torch does as well, slower."""

    lowrank: Lowrank | None = None
    dense: Dense | None = None


def find_kernels(folder: Path) -> Kernels:
    """Compiled into that folder, unless they are there."""
    try:
        lowrank, dense = open_kernels(folder)
    except (OSError, AttributeError) as error:
        log.info("products are torch's: %s", error)
        return Kernels()
    whose = "too" if dense.pays else "not, on this processor"
    log.info("low-rank products have a kernel of their own; those with frozen weights %s", whose)
    return Kernels(lowrank, dense if dense.pays else None)


def open_kernels(folder: Path) -> tuple[Lowrank, Dense]:
    """Whether or not they pay. Raises OSError, or AttributeError."""
    library, parallel = ctypes.CDLL(str(build(SOURCES, folder))), _address_of_parallel()
    return Lowrank(library, parallel), Dense(library, parallel)


def _address_of_parallel() -> int:
    """Among what torch is linked with. Raises OSError, or AttributeError."""
    linked = ctypes.CDLL(str(Path(torch.__file__).with_name("lib") / "libtorch_cpu.so"))
    return ctypes.cast(getattr(linked, PARALLEL), ctypes.c_void_p).value or 0


def _functions(library: Any, name: str, *, tables: int) -> dict[torch.dtype, Any]:
    found = {dtype: library[f"{name}_{number}"] for dtype, number in DTYPES.items()}
    for function in found.values():
        function.argtypes = (ctypes.c_void_p, ctypes.c_int64, *[ctypes.c_char_p] * tables)
        function.restype = None
    return found
