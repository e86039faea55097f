"""A crew of several processes, over torch.distributed."""

import json
from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from trainer.warm.memory import memory_may_run_out
from trainer.warm.shard import Shards

T = TypeVar("T")


class Ranks:
    """See Crew. The process group exists already."""

    def __init__(self, device: torch.device) -> None:
        self.rank: int = dist.get_rank()
        self.size: int = dist.get_world_size()
        self._device = device
        self._shards: Shards | None = None

    def agree(self, value: T) -> T:
        """See Crew. JSON and not torch's pickled objects; two broadcasts in CPU memory, about 0.1 ms."""
        text = bytearray(json.dumps(value).encode())
        length = torch.tensor([len(text)])
        dist.broadcast(length, 0)
        if self.rank != 0:
            text = bytearray(int(length))
        dist.broadcast(torch.frombuffer(text, dtype=torch.uint8), 0)
        agreed: T = json.loads(text)
        return agreed

    def least(self, number: int) -> int:
        """See Crew."""
        least = torch.tensor([number])
        dist.all_reduce(least, dist.ReduceOp.MIN)
        return int(least)

    def sum_(self, tensor: Tensor) -> None:
        """See Crew."""
        dist.all_reduce(tensor)

    def run(self, compute: Callable[[], Tensor], *, backward: bool) -> Tensor:
        """See Crew. A rank whose pass failed still gathers the layers that the others wait for."""
        assert self._shards is not None
        self._shards.begin()
        result: Tensor | None = None
        with memory_may_run_out() as attempt:
            result = compute()
        self._shards.end(failed=not attempt.fits, backward=backward)
        fitted = self.least(int(attempt.fits))
        if result is None or not fitted:
            raise torch.OutOfMemoryError("a pass did not fit on every rank")
        return result

    def spread(self, model: Any) -> None:
        """See Crew."""
        self._shards = Shards(model, self._device)
