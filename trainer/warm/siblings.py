"""Which linear layers of a model read the same input, found by watching it work.

No table of architectures: whatever the model's code calls with one and the same tensor, in one module, can be computed
as one product (q, k and v; gate and up).
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from trainer.warm.adapter import Siblings


@contextmanager
def find_siblings(layers: Mapping[str, nn.Linear]) -> Iterator[list[Siblings]]:
    """The list is complete once the context ends. Inside, run the model.

    Every layer is in exactly one group, in the order of `layers`. One that was not called is by itself, and so is one
    that was called twice with the same input, or whose output the model writes into (OLMo clamps it): autograd
    forbids that of one of several views.
    """
    groups: list[Siblings] = []
    inputs: dict[str, list[Tensor]] = {name: [] for name in layers}  # kept, so that ids stay theirs
    outputs: dict[str, list[tuple[Tensor, int]]] = {name: [] for name in layers}

    def watch(name: str) -> Any:
        def note(_: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> None:
            inputs[name].append(arguments[0])
            outputs[name].append((output, _writes(output)))

        return layers[name].register_forward_hook(note)

    hooks = [watch(name) for name in layers]
    try:
        yield groups
    finally:
        for hook in hooks:
            hook.remove()
    families: dict[object, list[str]] = {}
    for name, layer in layers.items():
        written = any(_writes(output) != before for output, before in outputs[name])
        family = name if written else _family(name, layer, inputs[name])
        families.setdefault(family, []).append(name)
    groups += [tuple(names) for names in families.values()]


def _writes(tensor: Tensor) -> int:
    """How often it has been written into, as autograd counts it."""
    return tensor._version  # noqa: SLF001  torch has no other name for it


def _family(name: str, layer: nn.Linear, inputs: list[Tensor]) -> object:
    """Equal for layers that can be one product."""
    if not inputs or len({id(seen) for seen in inputs}) != len(inputs):
        return name
    parent = name.rpartition(".")[0]
    return parent, *map(id, inputs), layer.bias is None, layer.weight.dtype
