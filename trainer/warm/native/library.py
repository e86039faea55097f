"""lowrank.c as functions, on the threads that torch computes with.

A second set of threads would wait for work beside torch's, on the same cores. So the kernel brings none: it asks the
OpenMP library that torch is linked with to run its tasks, whichever that is.
"""

import ctypes
import logging
from pathlib import Path
from typing import Any

import torch

from trainer.warm.native.build import build

log = logging.getLogger(__name__)

SOURCE = Path(__file__).with_name("lowrank.c")
#: Of what numbers there are products.
DTYPES = {torch.float32: "float32", torch.float64: "float64"}
#: Runs a function on several threads, this one among them. GCC's name for it; LLVM's and Intel's libraries have it too.
PARALLEL = "GOMP_parallel"


class Lowrank:
    """The compiled kernel. The tables are what layout.py packs."""

    def __init__(self, library: Any, parallel: int) -> None:
        self._parallel = parallel
        self._forward = {dtype: _function(library, "forward", dtype) for dtype in DTYPES}
        self._backward = {dtype: _function(library, "backward", dtype) for dtype in DTYPES}

    def forward(self, dtype: torch.dtype, *tables: bytes) -> None:
        """h, and what it adds to y."""
        self._forward[dtype](self._parallel, torch.get_num_threads(), *tables)

    def backward(self, dtype: torch.dtype, *tables: bytes) -> None:
        """What is added to dx, where it is wanted, to dA and to dB."""
        self._backward[dtype](self._parallel, torch.get_num_threads(), *tables)


def find_lowrank(folder: Path) -> Lowrank | None:
    """The kernel, compiled into that folder unless it is there. None where it cannot be: torch does as well, slower."""
    try:
        parallel = _address_of_parallel()
        library = ctypes.CDLL(str(build(SOURCE, folder)))
        kernel = Lowrank(library, parallel)
    except (OSError, AttributeError) as error:
        log.info("low-rank products are torch's: %s", error)
        return None
    log.info("low-rank products have a kernel of their own")
    return kernel


def _address_of_parallel() -> int:
    """Among what torch is linked with. Raises OSError, or AttributeError."""
    linked = ctypes.CDLL(str(Path(torch.__file__).with_name("lib") / "libtorch_cpu.so"))
    return ctypes.cast(getattr(linked, PARALLEL), ctypes.c_void_p).value or 0


def _function(library: Any, verb: str, dtype: torch.dtype) -> Any:
    function = library[f"{verb}_{DTYPES[dtype]}"]
    function.argtypes = (ctypes.c_void_p, ctypes.c_int64, *[ctypes.c_char_p] * 3)
    function.restype = None
    return function
