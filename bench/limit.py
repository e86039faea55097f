"""What this machine's matrix products allow: the rate of those of a training step through the frozen weights, alone.

For each adapted layer the product forward and the one that carries the gradient back, with as many rows as there are
tokens in a step of all jobs together, less each row's last target, which nothing follows from; for the head the same
with the target tokens only. Nothing of attention, norms, loss or optimizer is in it, and all weights of the model are
gone through in turn, since they have to come from memory. They are made in the fastest way that we know of the library
that everyone multiplies with, and on a CPU with the kernel that we train with as well (trainer/warm/matmul.py). LoRA's
own have to be computed as well, so whoever trains is credited with them: at the rate of the large ones, which narrow
products nowhere reach.
"""

import time
from collections.abc import Sequence

import torch
from torch import Tensor

from bench.workloads import UNTIMED_STEPS
from trainer.warm.matmul import Matmul

#: What it is called, with the library's products and with our kernel's.
LIMIT, OURS = "the limit", "our kernel's limit"


class MatrixProducts:
    """Of one model: its layers' weights, each with an adapter of that rank, and its head's."""

    def __init__(
        self, layers: Sequence[Tensor], head: Tensor, rank: int, matmul: Matmul | None = None
    ) -> None:
        self._layers = [layer.detach() for layer in layers]
        self._head = head.detach()
        self._rank = rank
        self._matmul = matmul or Matmul()

    def frozen_flop(self, tokens: int, targets: int) -> float:
        """Of one step: 4 for each weight and token, a multiplication and an addition forward and back."""
        body = sum(layer.numel() for layer in self._layers)
        return 4.0 * (body * tokens + self._head.numel() * targets)

    def flop(self, tokens: int, targets: int) -> float:
        """With the adapters': 6 for each of their weights and tokens, since these have gradients of their own."""
        adapters = self._rank * sum(sum(layer.shape) for layer in self._layers)
        return self.frozen_flop(tokens, targets) + 6.0 * adapters * tokens

    def seconds(self, tokens: int, targets: int, steps: int) -> float:
        """How long the frozen weights' products of so many steps take, after one that is not timed."""
        for _ in range(UNTIMED_STEPS):
            self._step(tokens, targets)
        self._wait()
        began = time.perf_counter()
        for _ in range(steps):
            self._step(tokens, targets)
        self._wait()
        return time.perf_counter() - began

    def _step(self, tokens: int, targets: int) -> None:
        inputs = self._like_inputs(tokens)
        with torch.no_grad():
            for layer in self._layers:
                self._there_and_back(inputs[layer.shape[1]], layer)
            self._there_and_back(inputs[self._head.shape[1]][:targets], self._head)

    def _there_and_back(self, inputs: Tensor, weight: Tensor) -> None:
        outputs = self._matmul.linear(inputs, weight)
        self._matmul.linear_backward(outputs, weight)

    def _like_inputs(self, tokens: int) -> dict[int, Tensor]:
        """Something of the right width for every layer; its values do not matter."""
        first = self._head
        widths = {layer.shape[1] for layer in [*self._layers, first]}
        return {
            width: torch.full((tokens, width), 1e-3, dtype=first.dtype, device=first.device)
            for width in widths
        }

    def _wait(self) -> None:
        if self._head.device.type == "cuda":
            torch.cuda.synchronize()
