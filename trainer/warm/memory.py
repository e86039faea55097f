"""The memory of GPUs, and how torch says that there is none left."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from trainer.warm.meters import Meter, ProcMeter


@dataclass(slots=True)
class Attempt:
    """A pass that may run out of memory."""

    fits: bool = True


class CudaMeter:
    """Of one GPU, through torch's allocator."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._before = 0

    def begin(self) -> None:
        """See Meter."""
        torch.cuda.reset_peak_memory_stats(self._device)
        self._before = torch.cuda.memory_allocated(self._device)

    def took(self) -> int:
        """See Meter."""
        return int(torch.cuda.max_memory_allocated(self._device) - self._before)

    def free(self) -> int:
        """Free on the device, and cached by torch but unused."""
        unused = torch.cuda.memory_reserved(self._device) - torch.cuda.memory_allocated(
            self._device
        )
        return int(torch.cuda.mem_get_info(self._device)[0] + unused)

    def release(self) -> None:
        """See Meter."""
        torch.cuda.empty_cache()


def meter_for(device: torch.device) -> Meter:
    """The one that fits."""
    return CudaMeter(device) if device.type == "cuda" else ProcMeter()


@contextmanager
def memory_may_run_out() -> Iterator[Attempt]:
    """The one door at which torch's ways to say so become ours. Swallows the error; ask `fits` afterwards.

    Not an exception of ours, since that would be chained to torch's, whose traceback keeps the failed pass's tensors
    alive for as long as it is being handled.
    """
    attempt = Attempt()
    try:
        yield attempt
    except RuntimeError as error:  # torch.OutOfMemoryError is one
        if not isinstance(error, torch.OutOfMemoryError) and "DefaultCPUAllocator" not in str(
            error
        ):
            raise
        attempt.fits = False
