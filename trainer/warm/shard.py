"""The base model in pieces: each rank keeps a part of every decoder layer, and layers are put together as needed.

PyTorch's FSDP2 does that: a layer is gathered right before it computes, forward and backward, and given back right
after. It gives memory back by shrinking the gathered tensors' storage and fills the very same storage again, so that
whoever holds the parameter, or reads it from its module, finds the weights there whenever the layer is computing.
Embeddings, output head and final norm stay whole on every rank: the loss reads the head outside of any module.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from trainer.warm.lora import LinearGroup
from trainer.warm.unsupported import UnsupportedBaseModel


class Shards:
    """A model in pieces. Also FSDP's way to gather a layer: torch's own, counted."""

    def __init__(self, model: Any, device: torch.device) -> None:
        self._decoder = model.base_model
        self._layers = find_layers(self._decoder)
        self._gathered = 0
        mesh = init_device_mesh(device.type, (dist.get_world_size(),))
        for layer in self._layers:
            # Moves the layer to the device first, so that no device ever holds more than one whole layer.
            fully_shard(layer, mesh=mesh, reshard_after_forward=True)
        whole = set(_outside(self._decoder, self._layers))
        fully_shard(self._decoder, mesh=mesh, ignored_params=whole)
        _move_rest(model, self._layers, device)
        for layer in self._layers:
            layer.set_custom_all_gather(self)

    def allocate(self, size: Sequence[int], *, dtype: torch.dtype, device: torch.device) -> Tensor:
        """Where the pieces of a layer go. FSDP's interface."""
        return torch.empty(*size, dtype=dtype, device=device)

    def __call__(
        self, output_tensor: Tensor, input_tensor: Tensor, group: Any, *, async_op: bool
    ) -> Any:
        """Gather a layer. FSDP's interface."""
        self._gathered += 1
        return dist.all_gather_single(output_tensor, input_tensor, group=group, async_op=async_op)

    def begin(self) -> None:
        """A pass begins.

        FSDP remembers the layers of a forward pass until its backward pass, which an evaluation never has: it would
        gather some of them once more in the next backward pass.
        """
        self._decoder.reset_iter_state()
        self._gathered = 0

    def end(self, *, failed: bool, backward: bool) -> None:
        """The pass is over here. Where it failed, take part in gathering the layers that the others still need.

        Raises:
            RuntimeError: other layers were gathered than the pass is made of, so that ranks no longer fit together.
        """
        order = [*self._layers, *reversed(self._layers)] if backward else self._layers
        if failed:
            self._decoder.reset_iter_state()
            for layer in order[self._gathered :]:
                layer.unshard()
                layer.reshard()
        if self._gathered != len(order):
            raise RuntimeError(f"{self._gathered} layers were gathered in a pass of {len(order)}.")


def find_layers(decoder: nn.Module) -> list[Any]:
    """The decoder layers: the members of the outermost list that has linear layers in it."""
    for module in decoder.modules():
        if isinstance(module, nn.ModuleList) and _has_linears(module):
            return list(module)
    raise UnsupportedBaseModel(f"{type(decoder).__name__} has no list of layers to divide.")


def _has_linears(module: nn.Module) -> bool:
    return any(isinstance(inner, LinearGroup) for inner in module.modules())


def _outside(module: nn.Module, layers: Sequence[nn.Module]) -> list[nn.Parameter]:
    inside = {parameter for layer in layers for parameter in layer.parameters()}
    return [parameter for parameter in module.parameters() if parameter not in inside]


def _move_rest(model: nn.Module, layers: Sequence[nn.Module], device: torch.device) -> None:
    """Whatever is not in a layer."""
    inside = {module for layer in layers for module in layer.modules()}
    for module in model.modules():
        if module in inside:
            continue
        for parameter in module.parameters(recurse=False):
            parameter.data = parameter.data.to(device)
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, buffer.to(device))
